"""Hyperparameter search on Optuna: trials within a time budget, then a comparison on fresh seeds.

Every trial is a training and a run in MLflow, nested under the run of the search.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
