"""Environments of peers, each with its own packages in .venv-peers."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PEERS = Path(__file__).parent / "peers"
ENVIRONMENTS = ROOT / ".venv-peers"


class PeerError(Exception):
    """A peer cannot be measured; the text is why."""


def make_environment(name: str) -> Path:
    """The Python of a peer, with what peers/requirements names for it."""
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
