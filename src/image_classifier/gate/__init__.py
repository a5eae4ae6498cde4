"""The quality gate: absolute checks, comparison with the champion, verdict and report.

Judges what the evaluation measured; imports no PyTorch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
