"""Virtual environments for the servers and trainers that we compare with, in .venv-peers."""

import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PEERS = Path(__file__).parent / "peers"
ENVIRONMENTS = ROOT / ".venv-peers"


class PeerError(Exception):
    """A peer cannot be measured; the text says why."""


def make_environment(name: str) -> Path:
    """Path of the Python interpreter of a peer, with the packages of peers/requirements/NAME.txt installed."""
    folder = ENVIRONMENTS / name
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet"]
    if not (folder / ".made").exists():
        print(f"installing {name}", file=sys.stderr)
        for command in (
            [sys.executable, "-m", "venv", str(folder)],
            [*install, "--requirement", str(PEERS / "requirements" / f"{name}.txt")],
            [*install, "--no-deps", "--editable", str(ROOT)],
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise PeerError(f"{' '.join(command)}: {done.stderr[-2000:]}")
        (folder / ".made").touch()
    return python


def free_port() -> int:
    """A port of this machine that nobody listens on, for now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
