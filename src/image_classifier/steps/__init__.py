"""The steps of the chain, one module a step: what each command and each Tekton step does.

Steps turn settings into the values that the other rooms take, and hand results on in files, in MLflow and to Tekton.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
