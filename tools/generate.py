"""Write the checked-in files that are derived from the code: `make generate`.

`python -m tools.generate --check` only names the files that are stale.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import click

from tools.chain_diagram import chain_diagram
from tools.documents import causes_page, openapi_document, settings_page
from tools.settings_blocks import GenerateError, generated_task, generated_template, tasks_with_settings

ROOT = Path(__file__).parent.parent

_DOCUMENTS: dict[str, Callable[[Path], str]] = {
    "docs/causes.md": lambda _: causes_page(),
    "docs/chain.svg": lambda root: chain_diagram(root / "config" / "chain"),
    "docs/openapi.json": lambda _: openapi_document(),
    "docs/settings.md": lambda _: settings_page(),
}


def derived_files(root: Path) -> Iterator[tuple[Path, str]]:
    """Path and text of every derived file below `root`, whose files have the hand-written parts.

    Raises GenerateError if a hand-written part lacks something.
    """
    for path in sorted((root / "tekton").glob("*-task.yaml")):
        yield path, generated_task(path.name, path.read_text(encoding="utf-8"))
    tasks = tasks_with_settings(root / "tekton")
    for path in sorted((root / "config" / "chain").glob("*-template.yaml")):
        yield path, generated_template(path.name, path.read_text(encoding="utf-8"), tasks)
    for name, make in _DOCUMENTS.items():
        yield root / name, make(root)


def stale_files(root: Path) -> list[tuple[Path, str]]:
    """The derived files whose content differs from what is derived, each with the text that it should have."""
    return [
        (path, text)
        for path, text in derived_files(root)
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; exit with status 1 and name the files that are stale.")
def generate(check: bool) -> None:
    """Write the files that are derived from the code."""
    try:
        stale = stale_files(ROOT)
    except GenerateError as error:
        raise click.ClickException(str(error)) from error
    for path, text in stale:
        name = path.relative_to(ROOT)
        if check:
            click.echo(f"{name} is stale; run `make generate`")
        else:
            path.write_text(text, encoding="utf-8")
            click.echo(f"wrote {name}")
    if check and stale:
        raise SystemExit(1)


if __name__ == "__main__":
    generate()
