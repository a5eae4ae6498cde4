"""The command line: one command a step of the chain, each the word of the Tekton step it becomes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from image_classifier.errors import ImageClassifierError, SettingError
from image_classifier.process import lasting, need_no_blas
from image_classifier.settings import SETTINGS, Settings, as_environment, load_settings
from image_classifier.steps import leave_failure

WHERE = ("home", "name", "tracking_uri", "registry_timeout", "registry_wait")
DATA = (
    "data",
    "image_size",
    "max_pixels",
    "max_data",
    "test_fraction",
    "validation_fraction",
    "fetch_timeout",
)
TRAINING = (
    "budget",
    "seed",
    "mirror",
    "precision",
    "recipe",
    "device",
    "training_processes",
    "retrain",
    "source_revision",
)
TUNING = (
    "tune_budget",
    "tune_workers",
    "tune_storage",
    "budget",
    "seed",
    "mirror",
    "retrain",
    "source_revision",
)
GATE = (
    "min_accuracy",
    "min_recall",
    "min_robustness",
    "max_calibration_error",
    "max_latency",
    "max_duplicates",
    "max_accuracy_drop",
    "max_recall_drop",
    "max_robustness_drop",
    "max_latency_ratio",
)
SCORING = ("score_top", "score_processes", "max_pixels", "max_data", "fetch_timeout", "results")
SERVING = (
    "host",
    "port",
    "workers",
    "threads",
    "queue",
    "queue_timeout",
    "max_upload",
    "max_pixels",
    "top",
    "cors_origins",
    "token",
    "drain_timeout",
    "drift_window",
    "drift_false_alarms",
)


def _chain() -> ModuleType:
    # Not imported above: `fetch`, which runs before every pod of a server, needs neither NumPy nor Pillow.
    from image_classifier.steps import chain_tmp as chain

    return chain


def _usage() -> ModuleType:
    from image_classifier.steps import usage_tmp as usage

    return usage


def _oversight() -> ModuleType:
    from image_classifier.steps import oversight_tmp as oversight

    return oversight


def _upkeep() -> ModuleType:
    from image_classifier.steps import upkeep_tmp as upkeep

    return upkeep


def _note(line: str) -> None:
    """Say something beside the answer, which a program may read."""
    click.echo(line, err=True)


class Commands(click.Group):
    """Lists the commands in the order of the chain, and turns our errors into one line and status 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ImageClassifierError as error:
            leave_failure(os.environ, str(error))
            if ctx.params.get("debug"):
                raise
            click.echo(f"error: {error}", err=True)
            ctx.exit(1)
        except (click.exceptions.Exit, click.ClickException):
            raise
        except Exception as error:
            leave_failure(os.environ, f"unexpected {type(error).__name__}: {error}")
            raise


def settings_options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command an option for each named setting; its function gets the checked Settings first."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @click.pass_context
        def command(ctx: click.Context, /, **values: Any) -> Any:
            options = {name: values.pop(name) for name in dict.fromkeys(names)}
            return function(load_settings(options, os.environ, ctx.obj), **values)

        command.__doc__ = function.__doc__
        command.__name__ = function.__name__
        for name in reversed(dict.fromkeys(names)):
            setting = SETTINGS[name]
            shown = str(setting.default) or "none"
            described = f"{setting.help}  [default: {shown}]"
            command = click.option(setting.option, name, default=None, metavar="VALUE", help=described)(
                command
            )
        return command

    return decorate


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="image-classifier", prog_name="image-classifier")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option(
    "--workload",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Take settings from the params of this workload.yaml, too.",
)
@click.pass_context
def main(ctx: click.Context, debug: bool, workload: Path | None) -> None:  # noqa: ARG001 (invoke reads it)
    """Own images in, a documented inference URL out.

    One command a step; `run` does them all. A setting comes from its option, else from the environment
    (IMAGE_CLASSIFIER_BUDGET=60s), else from the workload's params, else it has its default.

    \b
    image-classifier run                                  the whole chain, on 1,797 embedded images
    image-classifier run --data ~/photos --budget 3m      on your own: one sub-folder a class
    image-classifier predict photo.jpg                    ask the champion
    """
    ctx.obj = _workload_params(workload) if workload else {}


@main.command()
@settings_options("source_url", "sub_path", "source", "fetch_timeout")
def source(settings: Settings) -> None:
    """Fetch and unpack the source that a supply chain names.

    \b
    image-classifier source --source-url http://source-controller/main.tar.gz --source /source
    """
    _chain().source(settings, click.echo)


@main.command()
@settings_options("source_url", "sub_path", "source", "fetch_timeout", "results")
def test(settings: Settings) -> None:
    """Run the tests of the source that a supply chain names.

    \b
    image-classifier test --source-url http://source-controller/main.tar.gz --source /source
    """
    _chain().test(settings, click.echo)


@main.command()
@settings_options("home", *DATA, "mirror")
def data(settings: Settings) -> None:
    """Prepare a data set: fetch, decode, check, cache.

    \b
    image-classifier data --data ~/photos
    image-classifier data --data s3://bucket/images.zip --image-size 64
    """
    _chain().data(settings, click.echo)


@main.command()
@settings_options(*WHERE, *DATA, *TRAINING)
def train(settings: Settings) -> None:
    """Train within a time budget and write the model package.

    The same code, data and parameters find their registered version instead of training again. A run that
    was killed goes on where it was.

    \b
    image-classifier train --data ~/photos --budget 3m
    image-classifier train --data ~/photos --budget 3m --training-processes 2
    torchrun --nnodes 2 --rdzv-endpoint HOST:29500 --no-python image-classifier train --data /shared/photos
    """
    _chain().train(settings, click.echo)


@main.command()
@settings_options(*WHERE, *DATA, *TUNING)
def tune(settings: Settings) -> None:
    """Search for better hyperparameters within a time budget, by trainings of --budget each.

    Judged by the validation split alone, against the default, and at the end on fresh seeds. A search that was
    killed goes on where it was, and several machines share one by --tune-storage.

    \b
    image-classifier tune --data ~/photos --budget 1m --tune-budget 2h
    """
    _chain().tune(settings, click.echo)


@main.command()
@settings_options(*WHERE, *DATA, "abstain_error")
def evaluate(settings: Settings) -> None:
    """Evaluate the trained package on the untouched test part.

    \b
    image-classifier evaluate --data ~/photos
    """
    _chain().evaluate(settings, click.echo)


@main.command()
@settings_options(*WHERE, "signing_key", "steps_image")
def register(settings: Settings) -> None:
    """Register the evaluated package in MLflow, as the candidate, with its bill of materials and its provenance.

    \b
    image-classifier register --tracking-uri http://mlflow:5000
    image-classifier register --signing-key key.pem
    """
    _chain().register(settings, click.echo)


@main.command()
@settings_options(*WHERE, "model", *GATE, *DATA, "abstain_error", "results")
def gate(settings: Settings) -> None:
    """Judge the candidate by the floors and against the champion. A refusal is no error.

    \b
    image-classifier gate --min-accuracy 0.9
    """
    _chain().gate(settings, click.echo)


@main.command()
@settings_options(*WHERE, "model")
def promote(settings: Settings) -> None:
    """Make the candidate the champion, if the gate accepted it.

    \b
    image-classifier promote
    """
    _chain().promote(settings, click.echo)


@main.command()
@settings_options(*WHERE, "model", "url", "image", "max_latency", "accept_timeout", "public_key", "results")
def accept(settings: Settings) -> None:
    """Try the candidate (or --model) at its address and make it the champion if it answers as evaluated.

    \b
    image-classifier accept --model models:/image-classifier/7 --url http://candidate.example.org
    """
    _chain().accept(settings, click.echo)


@main.command()
@settings_options(*WHERE, "model", "image", "service", "watch_duration", "results")
def watch(settings: Settings) -> None:
    """Watch a new revision while requests move to it, and turn it back where it does worse than the one before.

    \b
    image-classifier watch --service photos --model models:/photos/7 --image registry.example.org/server@sha256:…
    """
    _chain().watch(settings, click.echo)


@main.command()
@click.argument("uri")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@settings_options("tracking_uri", "registry_timeout", "public_key")
def fetch(settings: Settings, uri: str, folder: Path) -> None:
    """Fetch the package of a registered version into a folder, as KServe's storage initializer does.

    \b
    image-classifier fetch models:/image-classifier/7 /mnt/models
    """
    from image_classifier.platform import download

    download(
        uri,
        folder,
        tracking_uri=settings.tracking_uri,
        timeout=settings.registry_timeout,
        credentials=os.environ,
        public_key=settings.public_key,
    )
    click.echo(f"fetched {uri} into {folder}")


@main.command()
@settings_options(*WHERE, "model", "public_key", *SERVING)
def serve(settings: Settings) -> None:
    """Serve the champion (or --model) over HTTP, with a page to drop images on.

    \b
    image-classifier serve
    image-classifier serve --model models:/image-classifier/7 --port 9000
    """
    need_no_blas()
    with lasting():
        from image_classifier.serving import serve as run_server
        from image_classifier.steps import fetch_model
    run_server(settings, fetch_model(settings, click.echo))


@main.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
@settings_options(*WHERE, "model", "public_key", "max_pixels", "top")
def predict(settings: Settings, images: tuple[Path, ...], as_json: bool) -> None:
    """Say what the champion (or --model) sees in image files.

    \b
    image-classifier predict photo.jpg
    """
    for path, ranking in _usage().predict(settings, images, _note):
        if as_json:
            click.echo(
                json.dumps({"image": str(path), "top": [{"label": n, "probability": p} for n, p in ranking]})
            )
        else:
            click.echo(f"{path}: " + ", ".join(f"{name} {share:.1%}" for name, share in ranking))


@main.command()
@click.argument("source", required=False)
@settings_options(*WHERE, "model", "data", "to", *SCORING)
def score(settings: Settings, source: str | None) -> None:
    """Score all images of SOURCE (or --data) with the champion (or --model), into parquet files.

    SOURCE is whatever --data may be, and its images need no labels. An image that cannot be read has an error in
    its row. A run that was killed goes on where it was.

    \b
    image-classifier score ~/photos --to scores.parquet
    image-classifier score s3://bucket/images.parquet --to s3://bucket/scores --model models:/image-classifier/7
    """
    _usage().score(replace(settings, data=source) if source else settings, click.echo)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
@settings_options(*WHERE)
def history(settings: Settings, as_json: bool) -> None:
    """Show what served when, from which commit, data, run and image, and who changed it and why, newest first.

    Promotions, refusals, roll-backs and what was seen of a roll-out, as the registry recorded them.

    \b
    image-classifier history
    image-classifier history --name photos --json
    """
    entries = _oversight().history(settings, _note)
    if as_json:
        click.echo(json.dumps([entry.to_dict() for entry in entries], indent=1))
        return
    if not entries:
        click.echo(f"nothing was promoted or refused of {settings.name} yet")
    for entry in entries:
        for line in entry.lines():
            click.echo(line)


@main.command()
@click.argument("workload", required=False, default="")
@click.option(
    "--to", default="", metavar="VERSION", help="Version to go to.  [default: the one that served before]"
)
@click.option("--release", is_flag=True, help="Undo a roll-back: let the newest version be tried again.")
@click.option("--reason", default="", metavar="TEXT", help="Why, for the history.")
@settings_options("namespace", *WHERE, "accept_timeout")
def rollback(settings: Settings, **asked: Any) -> None:
    """Let the version that served before, or VERSION, serve again; of a WORKLOAD, or of this machine's registry.

    On the platform it waits until the address gives that version's answers alone. Without --to the pair of server
    image and model before comes back, and the next version goes its usual way; --to pins a version until --release.

    \b
    image-classifier rollback --reason "cats became dogs"
    image-classifier rollback photos --reason "cats became dogs"
    image-classifier rollback photos --to 3
    """
    oversight = _oversight()
    oversight.rollback(settings, oversight.Asked(**asked), click.echo)


@main.command()
@click.argument("workload", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
@settings_options("namespace", *WHERE)
def why(settings: Settings, workload: str | None, as_json: bool) -> None:
    """Say why a workload is as it is: the first real cause in its chain, what shows it, and what to do.

    Without a workload the registry alone is asked why its newest version serves, or does not. The exit status is 0
    where nothing is wrong (it may be under way), and 1 where there is trouble.

    \b
    image-classifier why photos
    image-classifier why
    """
    answer = _oversight().why(settings, workload, _note)
    for line in [json.dumps(answer.content, indent=1, ensure_ascii=False)] if as_json else answer.lines:
        click.echo(line)
    if not answer.well:
        click.get_current_context().exit(1)


@main.command()
@click.argument("workload", required=False, default="")
@click.option("--server", "servers", multiple=True, metavar="URL", help="Ask this server, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
@settings_options("namespace", *WHERE, "token", "drift_window", "drift_false_alarms")
def drift(settings: Settings, workload: str, servers: tuple[str, ...], as_json: bool) -> None:
    """Add up what servers have seen, and say whether it is still like what their model was made with.

    Asks each server of a WORKLOAD, or the servers that are named. What was counted before is not counted twice; the
    sum and the verdict are kept with the version in MLflow.

    \b
    image-classifier drift photos
    image-classifier drift --server http://127.0.0.1:8080
    """
    judged = _upkeep().drift(settings, workload, servers, _note)
    if as_json:
        click.echo(json.dumps([each.to_dict() for each in judged], indent=1))
        return
    for each in judged:
        click.echo(each.in_words)


@main.command()
@click.argument("workload")
@click.option("--if-drifted", is_flag=True, help="Train again where `drift` says that images have changed.")
@click.option("--force", is_flag=True, help="Also where the data is the same as before.")
@settings_options("namespace", *WHERE, "retrain_every", "retrain_pause")
def retrain(settings: Settings, workload: str, if_drifted: bool, force: bool) -> None:
    """Start a WORKLOAD's training again, if there is a reason and the last one was long enough ago.

    It sets the workload's param `retrain`; the chain does the rest. The data is looked at again, and where it is the
    same as before nothing is trained. The history says when and why.

    \b
    image-classifier retrain photos --if-drifted --retrain-every 30d --retrain-pause 1d
    """
    _upkeep().retrain(settings, workload, if_drifted, force, click.echo)


@main.command()
@click.option(
    "--keep/--once",
    default=None,
    help="Keep serving after the first answer, or stop.  [default: keep on a terminal]",
)
@settings_options(*WHERE, *DATA, *TRAINING, "abstain_error", *GATE, "signing_key", "public_key", *SERVING)
def run(settings: Settings, keep: bool | None) -> None:
    """Do all the steps: data, train, evaluate, register, gate, promote, serve; and ask for one answer.

    \b
    image-classifier run
    image-classifier run --data ~/photos --budget 3m
    """
    keep_serving = sys.stdout.isatty() if keep is None else keep
    _chain().train(settings, click.echo)
    _chain().evaluate(settings, click.echo)
    _chain().register(settings, click.echo)
    _chain().gate(settings, click.echo)
    if _chain().promote(settings, click.echo) is None:
        return
    from image_classifier.steps import fetch_model

    package = fetch_model(settings, click.echo)
    command = [sys.executable, "-m", "image_classifier.cli", "serve", "--model", str(package.folder)]
    # Not as options, for one is a token.
    given = as_environment(settings, (*SERVING, "public_key"))
    server = subprocess.Popen(command, env={**os.environ, **given})
    try:
        from image_classifier.steps import ask

        ask(settings, package, server, click.echo)
        if keep_serving:
            click.echo(f"serving on http://{settings.host}:{settings.port}/ until Ctrl-C")
            server.wait()
    except KeyboardInterrupt:
        click.echo("stopping", err=True)
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGTERM)
        server.wait(settings.drain_timeout + 10)


def _workload_params(path: Path) -> Mapping[str, object]:
    """The params of a workload.yaml as the CLI knows them."""
    import yaml

    try:
        workload = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {param["name"]: param["value"] for param in workload["spec"].get("params", [])}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"{path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise SettingError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    except (KeyError, TypeError, AttributeError):
        raise SettingError(f"{path} is no workload: it has no spec.params list of name and value") from None
