from .backbone import Backbone as Backbone
from .feature_graph import FEATURES as FEATURES, FeatureGraph as FeatureGraph, add_classifier as add_classifier
from .finding import read_backbone as read_backbone
from .shipped import SHIPPED as SHIPPED
