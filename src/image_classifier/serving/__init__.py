"""The inference server: HTTP, protocols, web page, API document and metrics around one loaded package.

Imports neither PyTorch nor MLflow, so that a server starts in a fraction of a second.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
