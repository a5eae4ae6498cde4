from .backbone import SHIPPED as SHIPPED, Backbone as Backbone
from .feature_graph import (
    FEATURES as FEATURES,
    FeatureGraph as FeatureGraph,
    add_classifier as add_classifier,
    build_feature_graph as build_feature_graph,
)
from .weights import open_backbone as open_backbone
