"""Training within a time budget: network, optimizer, augmentation, data-parallel processes, export to ONNX.

Takes a data set and a plan; returns a trained classifier, and writes it as a package. Knows no registry and no cluster.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
