"""Free ports for servers that tests and benchmarks start."""

import socket


def free_port() -> int:
    """A port of this machine that nobody listens on, for now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
