"""Training on a pretrained backbone: features of the frozen network, and a linear classifier of them."""
