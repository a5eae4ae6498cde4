from .corruptions import CORRUPTIONS as CORRUPTIONS
from .evaluation import ClassMetrics as ClassMetrics, Evaluation as Evaluation, recall_metric as recall_metric
from .example_images import Pictures as Pictures, choose_examples as choose_examples
from .held_out import (
    decode_golden_images as decode_golden_images,
    held_out_from_json as held_out_from_json,
    held_out_images as held_out_images,
    held_out_to_json as held_out_to_json,
)
from .intervals import Estimate as Estimate, wilson_interval as wilson_interval
from .latency import latency_ratio as latency_ratio
from .measurement import measure as measure
from .plots import (
    plot_confusion_matrix as plot_confusion_matrix,
    plot_coverage as plot_coverage,
    plot_labels as plot_labels,
    plot_reliability as plot_reliability,
    plot_robustness as plot_robustness,
)
