from .backbone import Backbone as Backbone
from .efficientnet_lite import EfficientNetLite as EfficientNetLite
from .feature_graph import (
    FEATURES as FEATURES,
    FeatureGraph as FeatureGraph,
    FeatureMap as FeatureMap,
    add_classifier as add_classifier,
    build_feature_graph as build_feature_graph,
)
from .finding import read_backbone as read_backbone
from .shipped import SHIPPED as SHIPPED
