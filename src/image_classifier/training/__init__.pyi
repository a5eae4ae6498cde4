from .checkpoint import CHECKPOINT_FILE as CHECKPOINT_FILE
from .distributed import Group as Group, join_group as join_group, local_processes as local_processes
from .export import export_package as export_package
from .learning_curve import (
    REPORT_POINTS as REPORT_POINTS,
    ReportPoint as ReportPoint,
    plot_learning_curve as plot_learning_curve,
)
from .loop import fit as fit, fit_worker as fit_worker
from .plan import Plan as Plan, require_device as require_device
from .transfer.choice import (
    BackboneChoice as BackboneChoice,
    ModelLimits as ModelLimits,
    choose_backbone as choose_backbone,
    has_backbone as has_backbone,
)
