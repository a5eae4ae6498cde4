from .http.server import serve_package as serve_package
from .server_options import ServerOptions as ServerOptions
