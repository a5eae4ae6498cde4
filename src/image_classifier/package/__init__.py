"""The model package, the contract between training and serving: write, verify, run.

Also the statistics by which a server compares its inputs with those the model was made with.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
