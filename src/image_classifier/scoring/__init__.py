"""Batch scoring: all images of a source through a model, in several processes, into parquet files.

A source is split into partitions. A partition is one unit of work and one file, so an interrupted run resumes. Knows
neither the registry nor the server.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
