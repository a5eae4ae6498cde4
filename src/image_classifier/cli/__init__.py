"""The command line: one command a step of the chain, each named like the Tekton step it becomes.

Thin: it parses options, calls a step, and prints what the step reports.
"""

from image_classifier.cli.command import main

__all__ = ["main"]
