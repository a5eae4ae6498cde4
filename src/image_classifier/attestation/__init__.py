"""Attestations of a model: signature, SLSA provenance and bills of materials.

Everything is written beside the registered model in a standard form that other tools verify.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
