from .candidates import Candidate as Candidate, fit_best as fit_best, fit_best_worker as fit_best_worker
from .checkpoint import CHECKPOINT_FILE as CHECKPOINT_FILE
from .distributed import (
    SINGLE_PROCESS as SINGLE_PROCESS,
    Group as Group,
    join_group as join_group,
    local_processes as local_processes,
)
from .export import export_package as export_package
from .learning_curve import (
    REPORT_POINTS as REPORT_POINTS,
    ReportPoint as ReportPoint,
    plot_learning_curve as plot_learning_curve,
)
from .loop import fit as fit
from .plan import Plan as Plan, require_device as require_device
from .trained import Trained as Trained
from .transfer.choice import (
    BackboneChoice as BackboneChoice,
    ModelLimits as ModelLimits,
    choose_backbone as choose_backbone,
    has_backbone as has_backbone,
    is_network_from_scratch_tried as is_network_from_scratch_tried,
)
from .transfer.framing import (
    FramingChoice as FramingChoice,
    choose_framing as choose_framing,
    framing_sample as framing_sample,
    is_framing_tried as is_framing_tried,
)
