"""What happens to a released model: drift of its inputs and answers, a worse revision, the need to retrain.

Pure statistics and policy over counts; who collects the counts is serving's and platform's concern.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
