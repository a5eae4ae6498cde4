"""`python -m image_classifier.cli`: the command where no script is installed, as in a subprocess."""

from image_classifier.cli import main

main()
