"""Images: encoded bytes to uint8 arrays, within limits on pixels and memory.

The one decoder of data preparation, evaluation and serving. Knows nothing of data sets or models.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
