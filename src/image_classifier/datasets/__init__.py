"""Data sets: one module a format, prepared into memory-mapped arrays with a training and a test part.

Reads and decodes images with `images`; knows nothing of training.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
