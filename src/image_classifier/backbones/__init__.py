"""Pretrained backbones: networks that turn an image into features, without a classifier. Knows no data set."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
