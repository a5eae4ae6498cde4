"""The model package, the contract between training and serving: write, verify, load and run.

Also the reference statistics for drift detection. Knows nothing of training, the registry or servers.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
