"""The processes of the cluster's node, which must be this machine, so that tests can kill them."""

import os
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Node:
    """The node; `repair` restarts the processes that a service manager would restart."""

    repair_command: str

    def command(self, process: int) -> str:
        """The command line of a process, with a space after each argument; empty for a kernel thread."""
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")

    def processes(self, pattern: str, pod_uid: str = "") -> list[int]:
        """Process IDs, oldest first, of this pod or all, whose command line matches a regular expression."""
        found = []
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                command = self.command(int(folder.name))
                inside = not pod_uid or pod_uid in (folder / "cgroup").read_text().replace("_", "-")
            except OSError:  # it has ended
                continue
            if inside and re.search(pattern, command):
                found.append(int(folder.name))
        return sorted(found)

    def kill(self, pattern: str, pod_uid: str = "", *, which: slice = slice(None)) -> int:
        """Send SIGKILL to the matching processes; fails if there are none."""
        processes = self.processes(pattern, pod_uid)[which]
        assert processes, f"no process matches {pattern!r}"
        for process in processes:
            os.kill(process, signal.SIGKILL)
        return len(processes)

    def repair(self) -> None:
        subprocess.run(self.repair_command, shell=True, check=True, capture_output=True, timeout=300)
