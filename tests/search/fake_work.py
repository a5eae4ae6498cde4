"""Work of processes that do not train. They import nothing but this module, so they start at once."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

WORKERS = 2


@dataclass(frozen=True)
class Options:
    folder: Path
    tune_workers: int = WORKERS

    def join(self) -> None:
        """Say that this process runs, and wait until all do."""
        (self.folder / f"process {os.getpid()}").touch()
        while len(self.processes()) < WORKERS:
            time.sleep(0.02)

    def processes(self) -> list[int]:
        return [int(path.name.split()[1]) for path in self.folder.glob("process *")]

    def is_first(self) -> bool:
        try:
            (self.folder / "first").mkdir()
        except FileExistsError:
            return False
        return True


def end_together(options: Options, parent_run: str) -> None:
    options.join()
    (options.folder / "over").touch()


def die(options: Options, parent_run: str) -> None:
    os._exit(3)


def die_once(options: Options, parent_run: str) -> None:
    if options.is_first():
        os._exit(3)
    end_together(options, parent_run)


def raise_in_one(options: Options, parent_run: str) -> None:
    options.join()
    if options.is_first():
        raise OSError("disk full")
    time.sleep(60)


def work_for_long(options: Options, parent_run: str) -> None:
    options.join()
    time.sleep(60)
