"""Encoded image bytes to a uint8 array, within limits on pixels and memory.

The one decoder of data preparation, evaluation and serving.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
