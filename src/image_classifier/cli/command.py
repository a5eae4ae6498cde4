"""The command `image-classifier`."""

import atexit
import gc
import io
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from image_classifier.cli.chain_commands import (
    accept,
    data,
    evaluate,
    gate,
    promote,
    register,
    run,
    source,
    test,
    train,
    tune,
    watch,
)
from image_classifier.cli.model_commands import fetch, predict, score, serve
from image_classifier.cli.operation_commands import drift, history, retrain, rollback, why
from image_classifier.cli.setting_options import Commands
from image_classifier.errors import SettingError
from image_classifier.text import one_line


@click.group(
    cls=Commands,
    sections={
        "All steps on this machine": [run],
        "Steps of the chain": [source, test, data, train, tune, evaluate, register, gate, promote, accept, watch],
        "Use a model": [serve, predict, score, fetch],
        "Operate": [history, why, rollback, drift, retrain],
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="image-classifier", prog_name="image-classifier")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option(
    "--workload",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also take settings from the params of this workload.yaml.",
)
@click.pass_context
def main(ctx: click.Context, debug: bool, workload: Path | None) -> None:  # noqa: ARG001 (Commands reads it)
    """Turn a folder of labeled images into a judged, documented inference URL.

    Each step of the chain is a command; `run` runs them all. A setting is taken from its option, else from the
    environment (IMAGE_CLASSIFIER_BUDGET=60s), else from the workload's params, else from its default.

    \b
    image-classifier run                                  try it on 1,797 embedded images
    image-classifier run --data ~/photos --budget 3m      use your own images, one sub-folder per class
    image-classifier predict photo.jpg                    classify a photo with the champion
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # The name of a file or class may have characters that the terminal's encoding lacks.
            stream.reconfigure(errors="backslashreplace")
    atexit.register(gc.freeze)  # else Python searches all modules for garbage before it ends, for up to two seconds
    ctx.obj = _workload_params(workload) if workload else {}


def _workload_params(path: Path) -> Mapping[str, object]:
    import yaml

    try:
        workload = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {param["name"]: param["value"] for param in workload["spec"].get("params", [])}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"cannot read {path}: {error}") from error
    except yaml.YAMLError as error:
        raise SettingError(f"{path} is not valid YAML: {one_line(error, most=1_000)}") from error
    except (KeyError, TypeError, AttributeError):
        raise SettingError(f"{path} is not a workload: spec.params, a list of name and value, is missing") from None
