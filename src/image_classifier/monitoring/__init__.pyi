from .drift_detection import (
    DriftResult as DriftResult,
    DriftVerdict as DriftVerdict,
    detect_drift as detect_drift,
    no_reference as no_reference,
    too_few_images as too_few_images,
)
from .drift_record import DriftRecord as DriftRecord, ServerCounts as ServerCounts, counts_from_json as counts_from_json
from .drift_reference import (
    DriftReference as DriftReference,
    FeatureCounts as FeatureCounts,
    ProjectedEmbeddings as ProjectedEmbeddings,
)
from .retraining_policy import RetrainingPolicy as RetrainingPolicy, decide_retraining as decide_retraining
from .revision_comparison import ResponseCounts as ResponseCounts, RevisionComparison as RevisionComparison
