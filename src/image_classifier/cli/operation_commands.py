"""Commands for operating a released model: history, diagnosis, rollback, drift, retraining."""

import json
from typing import Any

import click

from image_classifier import steps
from image_classifier.cli.model_commands import note
from image_classifier.cli.setting_options import settings_command
from image_classifier.settings import Group, Settings

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@settings_command(Group.REGISTRY)
@_as_json
def history(settings: Settings, as_json: bool) -> None:
    """Show which version served when, with its commit, data, run and image, and who changed it and why.

    Lists promotions, refusals, rollbacks, watched roll-outs and later judgements, the newest first.

    \b
    image-classifier history
    image-classifier history --name photos --json
    """
    entries = steps.history.history(settings, note)
    if as_json:
        click.echo(json.dumps([entry.to_dict() for entry in entries], indent=1))
        return
    if not entries:
        click.echo(f"no version of {settings.name} has been promoted or refused yet")
    for entry in entries:
        for line in entry.lines():
            click.echo(line)


@settings_command("namespace", Group.REGISTRY)
@click.argument("workload", required=False)
@_as_json
def why(settings: Settings, workload: str | None, as_json: bool) -> None:
    """Explain the state of a WORKLOAD: the first real cause, the evidence, and what to do.

    Without a workload it explains whether the newest version in the registry is live. The exit status is 0 if all is
    well or still in progress, and 1 otherwise.

    \b
    image-classifier why photos
    image-classifier why
    """
    explanation = steps.why.why(settings, workload, note)
    if as_json:
        click.echo(json.dumps(explanation.content, indent=1, ensure_ascii=False))
    else:
        for line in explanation.lines:
            click.echo(line)
    if not explanation.healthy:
        click.get_current_context().exit(1)


@settings_command("namespace", Group.REGISTRY, "accept_timeout")
@click.argument("workload", required=False, default="")
@click.option("--to", default="", metavar="VERSION", help="Version to return to.  [default: the previous champion]")
@click.option("--release", is_flag=True, help="Undo a rollback: allow the newest version again.")
@click.option("--reason", default="", metavar="TEXT", help="Reason for the history.")
def rollback(settings: Settings, **request: Any) -> None:
    """Return to the previous champion, or --to VERSION; of a WORKLOAD, or of this machine's registry.

    On the platform it waits until all answers come from that version. Without --to, the previous pair of server image
    and model returns, and the next new version is tried as usual; --to pins a version until --release.

    \b
    image-classifier rollback --reason "cats became dogs"
    image-classifier rollback photos --reason "cats became dogs"
    image-classifier rollback photos --to 3
    """
    steps.rollback.rollback(settings, steps.rollback.RollbackRequest(**request), click.echo)


@settings_command("namespace", Group.REGISTRY, "token", Group.DRIFT)
@click.argument("workload", required=False, default="")
@click.option("--server", "servers", multiple=True, metavar="URI", help="Also query this server.")
@_as_json
def drift(settings: Settings, workload: str, servers: tuple[str, ...], as_json: bool) -> None:
    """Add up what servers counted, and judge whether inputs and predictions drifted.

    Queries every server of a WORKLOAD and the servers that --server names. Counts are never added twice; their sum and
    the verdict are stored with the version in MLflow.

    \b
    image-classifier drift photos
    image-classifier drift --server http://127.0.0.1:8080
    """
    judged = steps.drift.drift(settings, workload, servers, note)
    if as_json:
        click.echo(json.dumps([each.to_dict() for each in judged], indent=1))
        return
    for each in judged:
        click.echo(each.sentence)


@settings_command("namespace", Group.REGISTRY, Group.RETRAINING)
@click.argument("workload")
@click.option("--if-drifted", is_flag=True, help="Train again if `drift` detected drift.")
@click.option("--force", is_flag=True, help="Train even if the data is unchanged.")
def retrain(settings: Settings, workload: str, if_drifted: bool, force: bool) -> None:
    """Start a WORKLOAD's training again, if there is a reason and the last training is long enough ago.

    Sets the workload's param `retrain`, and the chain does the rest: it reads the data again, and trains if the data
    changed. The history records when and why.

    \b
    image-classifier retrain photos --if-drifted --retrain-every 30d --retrain-pause 1d
    """
    steps.retrain.retrain(settings, workload, if_drifted, force, click.echo)
