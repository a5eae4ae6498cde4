"""Training within a time budget: network, optimizer, augmentation, several processes, export to ONNX.

Takes a data set and a plan, and gives a trained classifier and the package exported from it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
