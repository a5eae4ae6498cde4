from .http.server import listen as listen, serve_package as serve_package
from .server_options import ServerOptions as ServerOptions
