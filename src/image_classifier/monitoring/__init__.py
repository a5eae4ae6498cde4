"""Monitoring of a released model: input drift, comparison of two revisions, and when to retrain.

Statistics and policy over counts; it does not know how servers collect the counts or how the platform reads them. The
server uses the drift detection, which therefore needs no SciPy.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
