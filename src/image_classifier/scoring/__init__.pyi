from .batch_scoring import score_source as score_source
from .summary import Summary as Summary
