from .local_server import ask as ask
from .local_server import free_port as free_port
from .registry_access import fetch_model as fetch_model
from .results import leave_failure as leave_failure
