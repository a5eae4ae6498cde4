"""The steps of the chain as commands, each named like the Tekton step it becomes."""

import sys

import click

from image_classifier import steps
from image_classifier.cli.setting_options import settings_command
from image_classifier.settings import Group, Settings

_SOURCE = ("source_url", "sub_path", "source", "fetch_timeout")


@settings_command(*_SOURCE)
def source(settings: Settings) -> None:
    """Fetch and unpack the source that a supply chain names.

    \b
    image-classifier source --source-url http://source-controller/main.tar.gz --source /source
    """
    steps.source.source(settings, click.echo)


@settings_command(*_SOURCE, "results")
def test(settings: Settings) -> None:
    """Run the tests of the source that a supply chain names.

    \b
    image-classifier test --source-url http://source-controller/main.tar.gz --source /source
    """
    steps.source.test(settings, click.echo)


@settings_command("home", Group.DATA, "mirror", "backbone")
def data(settings: Settings) -> None:
    """Prepare a data set: fetch, decode, check and cache it.

    \b
    image-classifier data --data ~/photos
    image-classifier data --data s3://bucket/images.zip --image-size 64
    """
    steps.data.data(settings, click.echo)


@settings_command(Group.REGISTRY, Group.DATA, Group.TRAINING, "max_latency")
def train(settings: Settings) -> None:
    """Train within a time budget and write the model package.

    If the same code, data and parameters were trained before, their registered version is used instead. An interrupted
    training resumes where it stopped.

    \b
    image-classifier train --data ~/photos --budget 3m
    image-classifier train --data ~/photos --budget 3m --training-processes 2
    torchrun --nnodes 2 --rdzv-endpoint HOST:29500 --no-python image-classifier train --data /shared/photos
    """
    steps.train.train(settings, click.echo)


@settings_command(
    Group.REGISTRY, Group.DATA, Group.SEARCH, "budget", "seed", "mirror", "backbone", "retrain", "source_revision"
)
def tune(settings: Settings) -> None:
    """Search for better hyperparameters within a time budget.

    Every trial trains for --budget and is judged by its validation accuracy; the best ones are compared with the
    defaults on fresh seeds. An interrupted search resumes where it stopped; --tune-storage lets several machines share
    one.

    \b
    image-classifier tune --data ~/photos --budget 1m --tune-budget 2h
    """
    steps.tune.tune(settings, click.echo)


@settings_command(Group.REGISTRY, Group.DATA, Group.EVALUATION)
def evaluate(settings: Settings) -> None:
    """Evaluate the trained package on the test part.

    \b
    image-classifier evaluate --data ~/photos
    """
    steps.evaluate.evaluate(settings, click.echo)


@settings_command(Group.REGISTRY, "data", "signing_key", "steps_image")
def register(settings: Settings) -> None:
    """Register the evaluated package in MLflow as the candidate, with its bill of materials and provenance.

    \b
    image-classifier register --tracking-uri http://mlflow:5000
    image-classifier register --signing-key key.pem
    """
    steps.register.register(settings, click.echo)


@settings_command(Group.REGISTRY, "model", Group.GATE, Group.DATA, Group.EVALUATION, "results")
def gate(settings: Settings) -> None:
    """Judge the version registered last in this home, or --model, by absolute checks and against the champion.

    A refusal is a result, not an error: the exit status is 0.

    \b
    image-classifier gate --min-accuracy 0.9
    """
    steps.gate.gate(settings, click.echo)


@settings_command(Group.REGISTRY, "model", Group.GATE, Group.DATA, Group.EVALUATION)
def promote(settings: Settings) -> None:
    """Make the version registered last in this home, or --model, the champion, if the gate accepted it.

    If another version became the champion since, it is judged against that one first. To return to a version that
    served before, use `rollback --to`.

    \b
    image-classifier promote
    """
    steps.promote.promote(settings, click.echo)


@settings_command(
    Group.REGISTRY,
    Group.GATE,
    Group.DATA,
    Group.EVALUATION,
    "model",
    "url",
    "image",
    "pinned",
    "accept_timeout",
    "public_key",
    "results",
)
def accept(settings: Settings) -> None:
    """Try the candidate at its address, and promote it if it answers as in its evaluation.

    If another version became the champion since the gate judged it, it is judged against that one first.

    \b
    image-classifier accept --model models:/image-classifier/7 --url http://candidate.example.org
    """
    steps.accept.accept(settings, click.echo)


@settings_command(Group.REGISTRY, "model", "image", "service", "watch_duration", "results")
def watch(settings: Settings) -> None:
    """Watch the roll-out of a new revision, and roll it back if it does worse than the previous one.

    \b
    image-classifier watch --service photos --model models:/photos/7 --image registry.example.org/server@sha256:…
    """
    steps.watch.watch(settings, click.echo)


@settings_command(
    Group.REGISTRY, Group.DATA, Group.TRAINING, Group.EVALUATION, Group.GATE, Group.SIGNING, Group.SERVING, Group.DRIFT
)
@click.option(
    "--keep/--once", default=None, help="Keep serving after the first answer, or stop.  [default: keep on a terminal]"
)
def run(settings: Settings, keep: bool | None) -> None:
    """Run all steps: train, evaluate, register, judge, promote, serve; then send one request.

    The last line says what serves and why, and so does the exit status: 0 if the new version serves, 3 if it was
    refused or held and the earlier champion serves, 4 if it was refused or held and nothing serves, 1 after an error.

    \b
    image-classifier run
    image-classifier run --data ~/photos --budget 3m
    """
    outcome = steps.run.run(settings, click.echo, keep_serving=sys.stdout.isatty() if keep is None else keep)
    click.get_current_context().exit(outcome)
