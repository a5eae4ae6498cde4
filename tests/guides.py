"""Blocks of commands and code in the pages of the documentation, and how to run them."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
PROGRAMS = ("bash", "python", "javascript", "java")
"""Languages of blocks that must say whether they are run."""
SUBSTITUTIONS = {"--budget 3m": "--budget 3s"}  # in the text of a page, when a test runs it
_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>\w+)(?:: (?P<why>[^>]+))? -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$",
    flags=re.MULTILINE | re.DOTALL,
)
_SECONDS = 240


@dataclass
class Block:
    """A fenced block of a page, with its expected output."""

    page: str
    line: int
    mark: str
    """The comment before it, "" if there is none."""
    why: str
    language: str
    text: str
    prints: list[str] = field(default_factory=list)
    keys: Any = None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    """The blocks of a page in order; expected output belongs to the block before it."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found: list[Block] = []
    for match in _BLOCK.finditer(text):
        mark, content = match["mark"] or "", match["text"]
        if mark == "prints":
            found[-1].prints += content.splitlines()
        elif mark == "keys":
            found[-1].keys = json.loads(content)
        else:
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(page, line, mark, match["why"] or "", match["language"], content))
    return found


def missing_program(block: Block) -> str:
    """The program that the language of the block needs, if this machine lacks it; else ""."""
    program = {"bash": "bash", "javascript": "node", "java": "java"}.get(block.language)
    return program if program and shutil.which(program) is None else ""


def run(block: Block, folder: Path, variables: Mapping[str, str], others: Mapping[str, str] | None = None) -> str:
    """Run a block as a reader would, in `folder`; returns its output. Raises AssertionError if it fails.

    `others` are further substitutions in its text.
    """
    text = block.text
    for given, taken in {**SUBSTITUTIONS, **(others or {})}.items():
        text = text.replace(given, taken)
    name = {"java": block.why, "javascript": "block.mjs", "python": "block.py", "bash": "block.sh"}[block.language]
    (folder / name).write_text(text, encoding="utf-8")
    commands = {
        "bash": ["bash", "-euo", "pipefail", name],
        "python": [sys.executable, name],
        "javascript": ["node", name],
        "java": ["java", name],
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        commands[block.language],
        cwd=folder,
        env={**os.environ, "PATH": path, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SECONDS,
    )
    assert done.returncode == 0, f"{block}: {done.stdout}"
    return done.stdout


def check(block: Block, printed: str) -> None:
    """Raise AssertionError if the output differs from the page's; numbers may differ, and … stands for anything."""
    lines = [_without_numbers(line) for line in printed.splitlines()]
    for line in block.prints:
        pattern = ".*".join(re.escape(part) for part in _without_numbers(line).split("…"))
        found = any(re.fullmatch(pattern, printed_line) for printed_line in lines)
        assert found, f"{block}: {line!r} is not in {printed}"
    if block.keys is not None:
        assert _shape(json.loads(printed)) == _shape(block.keys), f"{block}: {printed}"


def _without_numbers(line: str) -> str:
    line = re.sub(r"\b[0-9a-f]{12}\b", "DIGEST", line.strip())
    return re.sub(r"\d+(?:[.,]\d+)*", "NUMBER", line)


def _shape(value: Any) -> Any:
    """Keys and kinds of values; for a list, of its first item."""
    if isinstance(value, dict):
        return {key: _shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_shape(inner) for inner in value[:1]]
    return "number" if isinstance(value, int | float) else type(value).__name__


def marked(page: str, *marks: str) -> list[Block]:
    return [block for block in blocks(page) if block.mark in marks]


def of_all_pages(*marks: str) -> list[Block]:
    return [block for page in PAGES for block in marked(page, *marks)]
