"""Data sets: one module per format, prepared into memory-mapped arrays with a training and a test part.

Decodes images with `images`; knows nothing of training or models.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
