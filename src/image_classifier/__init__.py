"""Own images in, a documented inference URL out."""
