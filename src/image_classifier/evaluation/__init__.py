"""The evaluation of a package on the test part: metrics, calibration, robustness, latency, duplicates, label errors.

It runs the exported package, not the network, so that what is measured is what is served; it knows nothing of the gate.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
