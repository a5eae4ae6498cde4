"""The node of the cluster, where it is the machine that the tests run on: its processes can be killed."""

import os
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Node:
    """A node whose processes this machine shows; `repair` starts again what a service manager would."""

    repair_command: str

    def command(self, process: int) -> str:
        """A process's command line, a space after each argument; empty for one of the kernel's."""
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")

    def processes(self, pattern: str, pod_uid: str = "") -> list[int]:
        """Processes whose command line matches, the oldest first; those of a pod alone, where one is given."""
        found = []
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                command = self.command(int(folder.name))
                inside = not pod_uid or pod_uid in (folder / "cgroup").read_text().replace("_", "-")
            except OSError:  # it ended meanwhile
                continue
            if inside and re.search(pattern, command):
                found.append(int(folder.name))
        return sorted(found)

    def kill(self, pattern: str, pod_uid: str = "", *, which: slice = slice(None)) -> int:
        """Send SIGKILL; fails where nothing was there to be killed."""
        processes = self.processes(pattern, pod_uid)[which]
        assert processes, f"no process matches {pattern!r}"
        for process in processes:
            os.kill(process, signal.SIGKILL)
        return len(processes)

    def repair(self) -> None:
        subprocess.run(self.repair_command, shell=True, check=True, capture_output=True, timeout=300)
