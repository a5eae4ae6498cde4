from .artifact_paths import REPORT as REPORT, SIGNATURE as SIGNATURE, SIGNED_BY as SIGNED_BY, page_of_run as page_of_run
from .decision import NOT_ACCEPTED as NOT_ACCEPTED, Decision as Decision, RecordedVerdict as RecordedVerdict
from .events import (
    HELD as HELD,
    PROMOTED as PROMOTED,
    REFUSED as REFUSED,
    RETRAINING as RETRAINING,
    ROLLED_BACK as ROLLED_BACK,
    WATCHED as WATCHED,
    Event as Event,
    has_served as has_served,
    last_change as last_change,
    last_replacement as last_replacement,
    line_of_champions as line_of_champions,
    withdrawal as withdrawal,
)
from .history import Judgement as Judgement
from .lineage import Entry as Entry, entries as entries
from .registry import Registry as Registry
from .rollback_targets import (
    NO_REASON as NO_REASON,
    check_no_recent_rollback as check_no_recent_rollback,
    compare_metrics as compare_metrics,
    require_served as require_served,
    roll_back_champion as roll_back_champion,
)
from .runs import Run as Run
from .status import (
    Stage as Stage,
    describe_status as describe_status,
    status_of as status_of,
    status_to_json as status_to_json,
)
from .store import RegistryOptions as RegistryOptions
from .versions import Version as Version
