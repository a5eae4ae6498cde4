from .acceptance import (
    ExpectedServer as ExpectedServer,
    try_candidate as try_candidate,
    wait_for_rollout as wait_for_rollout,
)
from .cluster import INFERENCE_SERVICE as INFERENCE_SERVICE, Cluster as Cluster, is_in_cluster as is_in_cluster
from .diagnosis.collector import collect_evidence as collect_evidence
from .diagnosis.diagnosis import diagnose as diagnose
from .diagnosis.presentation import describe_diagnosis as describe_diagnosis, diagnosis_to_json as diagnosis_to_json
from .drift_endpoints import (
    ServerReport as ServerReport,
    fetch_server_report as fetch_server_report,
    server_addresses as server_addresses,
)
from .project_source import fetch_source as fetch_source, run_tests as run_tests
from .rollout_watch import watch_rollout as watch_rollout
from .storage_initializer import download_version as download_version
from .training_job import training_pods as training_pods
from .workload import (
    PIN_PARAM as PIN_PARAM,
    model_name as model_name,
    params_of as params_of,
    require_workload as require_workload,
    set_params as set_params,
)
from .workload_rollback import (
    pin_version as pin_version,
    release_version as release_version,
    request_reconcile as request_reconcile,
    withdraw_live_pair as withdraw_live_pair,
)
