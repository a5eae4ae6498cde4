"""Commands that use a model: serve it, classify files with it, score many images with it, download it."""

import json
import os
from pathlib import Path

import click

from image_classifier import steps
from image_classifier.cli.setting_options import settings_command
from image_classifier.settings import Group, Settings


@settings_command(Group.REGISTRY, "model", "public_key", Group.SERVING, "max_pixels", Group.DRIFT)
def serve(settings: Settings) -> None:
    """Serve the champion, or --model, over HTTP, with a web page to drop images on.

    \b
    image-classifier serve
    image-classifier serve --model models:/image-classifier/7 --port 9000
    """
    steps.serve.serve(settings, click.echo)


@settings_command(Group.REGISTRY, "model", "public_key", "max_pixels", "top")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def predict(settings: Settings, images: tuple[Path, ...], as_json: bool) -> None:
    """Classify image files with the champion, or --model.

    \b
    image-classifier predict photo.jpg
    """
    for path, ranking in steps.predict.predict(settings, images, note):
        if as_json:
            top = [{"label": label, "probability": probability} for label, probability in ranking]
            click.echo(json.dumps({"image": str(path), "top": top}))
        else:
            classes = ", ".join(f"{label} {100 * probability:.1f} %" for label, probability in ranking)
            click.echo(f"{path}: {classes}")


@settings_command(Group.REGISTRY, "model", "data", Group.SCORING, "max_pixels", "max_data", "fetch_timeout", "results")
@click.argument("source", required=False)
def score(settings: Settings, source: str | None) -> None:
    """Score all images of SOURCE, or --data, with the champion, or --model, into parquet files.

    SOURCE may be anything that --data may be; its images need no labels. An image that cannot be read gets a row with
    the error. An interrupted run resumes where it stopped.

    \b
    image-classifier score ~/photos --to scores.parquet
    image-classifier score s3://bucket/images.parquet --to s3://bucket/scores --model models:/image-classifier/7
    """
    steps.score.score(settings, source, click.echo)


@settings_command("tracking_uri", "registry_timeout", "public_key")
@click.argument("uri")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def fetch(settings: Settings, uri: str, folder: Path) -> None:
    """Download the package of a registered version, as KServe's storage initializer does.

    \b
    image-classifier fetch models:/image-classifier/7 /mnt/models
    """
    steps.fetch.fetch(settings, uri, folder, os.environ)
    click.echo(f"fetched {uri} into {folder}")


def note(line: str) -> None:
    """Print a line on stderr, next to an answer on stdout that a program may read."""
    click.echo(line, err=True)
