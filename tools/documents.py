"""Pages and documents in docs/ that are derived from the code."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

from image_classifier.package import Graph, Model, ModelIdentity, Package
from image_classifier.platform.diagnosis.causes import CAUSES
from image_classifier.serving.server_options import ServerOptions
from image_classifier.serving.web.app import create_app
from image_classifier.settings import CHAIN_PARAMS, SETTINGS, Group, Setting, Settings, pick

SERVED_AT = "image-classifier-predictor.team.example.org"
"""Host of the example service in catalog-info.yaml and docs/openapi.json."""


_SETTINGS_INTRODUCTION = """\
# Settings

A setting has one name everywhere. `min_accuracy` is the option `--min-accuracy` of the commands that use it, the
environment variable `IMAGE_CLASSIFIER_MIN_ACCURACY`, and, if the last column says so, the param `min_accuracy` of a
workload. The first of these that is not empty wins; otherwise the default applies.

A `DURATION` has a unit (`250ms`, `20s`, `3m`, `1h`, `30d`) or is in seconds; a `SIZE` has a unit (`5 MiB`, `50 GiB`,
`100 MB`) or is in bytes; a `FRACTION` is a number from `0` to `1`.
"""
_CAUSES_INTRODUCTION = """\
# Causes that `why` reports

`image-classifier why WORKLOAD` compares this list, from the top, with the first resource of the chain that has a
problem, and reports the first match. Words in *italics* are filled in. Names are stable, so that scripts can rely on
them; several rows may share one.
"""


def settings_page() -> str:
    """docs/settings.md: every setting by topic, and the params that only the chain reads."""
    lines = [_SETTINGS_INTRODUCTION]
    for group in Group:
        rows = (_setting_row(setting) for setting in SETTINGS.values() if setting.group is group)
        titles = ("setting", "type or choices", "default", "description", "workload param")
        lines += [f"## {group}", "", *_table(titles, rows), ""]
    lines += [
        "## Params of the supply chain",
        "",
        "A workload may also set these params, which are not settings of a command.",
        "",
        *_table(("param", "description"), ((f"`{name}`", help) for name, help in CHAIN_PARAMS.items())),
    ]
    return "\n".join(lines) + "\n"


def _setting_row(setting: Setting) -> Iterator[str]:
    yield f"`{setting.name}`"
    yield ", ".join(f"`{word}`" for word in setting.choices or (setting.metavar,))
    yield f"`{setting.shown_default}`" if setting.shown_default else ""
    also = "".join(f" Also read from the variable `{name}`." for name in setting.environment)
    yield setting.help + also
    yield "yes" if setting.param else ""


def causes_page() -> str:
    """docs/causes.md: every cause that `why` knows, with its advice."""
    rows = ((f"`{cause.name}`", _italics(cause.meaning), _italics(cause.advice)) for cause in CAUSES)
    return "\n".join([_CAUSES_INTRODUCTION, *_table(("cause", "meaning", "advice"), rows)]) + "\n"


def _italics(text: str) -> str:
    """A text of a cause with its placeholders in italics."""
    return re.sub(r"\{(\w+)\}", r"*\1*", text.replace("|", "\\|"))


def _table(titles: Sequence[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    yield f"| {' | '.join(titles)} |"
    yield "|---" * len(titles) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def openapi_document() -> str:
    """docs/openapi.json: the answer to /openapi.json of a server of a model of digits."""
    digits = tuple(str(digit) for digit in range(10))
    package = Package(folder=Path(), digest="", classes=digits, image_size=8, provenance={}, golden=(), reference={})
    # The description needs no inference, so that no graph is loaded.
    model = Model(package, cast(Graph, None))
    options = pick(Settings(), ServerOptions)
    identity = ModelIdentity("image-classifier", "1", digest="", source_revision="", data_digest="")
    client = create_app(options, model, identity).test_client()
    headers = {"Host": SERVED_AT, "X-Forwarded-Proto": "https"}
    return json.dumps(client.get("/openapi.json", headers=headers).json, indent=1, ensure_ascii=False) + "\n"
