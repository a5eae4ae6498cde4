"""The options of a server."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ServerOptions:
    """The settings of the same names, which have help and defaults. Durations in seconds, sizes in bytes."""

    name: str
    image: str
    host: str
    port: int
    workers: int
    threads: int
    queue: int
    queue_timeout: float
    max_upload: int
    max_pixels: int
    top: int
    cors_origins: str
    token: str
    drain_timeout: float
    drift_window: int
    drift_false_alarms: float
