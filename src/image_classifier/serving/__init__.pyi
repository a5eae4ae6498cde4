from .http.error_responses import not_found as not_found
from .http.server import serve as serve
