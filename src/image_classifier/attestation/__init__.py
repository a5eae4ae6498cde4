"""Attestations of a registered model: signature, SLSA provenance and bill of materials, in standard formats.

Reads the model package, its evaluation and the names of a version's files. Knows neither MLflow nor the settings.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
