"""Score a source: read where its images lie, score what no earlier run has, and sum up."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from image_classifier.datasets import (
    IN_PROCESS,
    KNOWN,
    Cache,
    ImageSource,
    counted,
    describe,
    is_remote,
    listed,
    locate,
    read_source,
    stamps_of,
    without_credentials,
)
from image_classifier.errors import DataError
from image_classifier.files import why_unwritten
from image_classifier.package import Identity, Package
from image_classifier.process import available_cpus
from image_classifier.progress import Progress
from image_classifier.scoring.partition import Partition, is_labelled, partitions_of
from image_classifier.scoring.partition_scorer import PartitionScorer, Work
from image_classifier.scoring.score_files import ScoreFiles
from image_classifier.scoring.summary import Summary, summarise
from image_classifier.settings import Settings

_FORMAT = 1
"""Of the results; to be raised when the columns, or the parts of a source, change."""

Stamps = Sequence[tuple[str, str, int, int]]


def score_source(settings: Settings, package: Package, report: Callable[[str], None]) -> Summary:
    """Score the images that `data` names into the folder that `to` names; what is there already stays.

    Raises DataError where the source or the folder cannot be used, and where no image at all can be read.
    """
    results = ScoreFiles.at(settings.to)
    cache = Cache(settings.home / "cache")
    identity = Identity.read(package, settings.name)
    try:
        path = locate(settings, cache.root / "fetched", KNOWN)
        stamps = stamps_of(path)
        if path is not None and results.lies_in(path):
            raise DataError(
                f"{results.address} lies in {path}, which is to be scored; set --to to another folder"
            )
        run = _run(settings, identity, path, stamps)
        results.check(run)
        with cache.draft() as scratch:
            source = _read(settings, path, scratch)
            for warning in source.warnings:
                report(f"warning: {warning}")
            labelled = is_labelled(source, package.classes)
            if source.classes and not labelled:
                report(
                    f"the labels of the source ({listed(source.classes)}) are no classes of the model and are left out"
                )
            parts = partitions_of(source, labelled=labelled)
            done = results.begin(run)
            left = [part for part in parts if part.number not in done]
            images = sum(part.count for part in left)
            if len(left) < len(parts):
                before = counted(len(source.labels) - images, "image")
                report(f"{before} scored before, {images:,} left")
            work = Work(
                package=package.folder.absolute(),
                model=identity.to_dict(),
                given_classes=source.classes,
                max_pixels=settings.max_pixels,
                top=settings.score_top,
                results=results,
            )
            processes = _processes(settings.score_processes, sum(size for _, _, size, _ in stamps))
            with Progress("score", images, "images") as progress:
                for count in _scored(left, work, min(processes, len(left)), scratch):
                    progress.advance(count)
    except OSError as error:
        raise DataError(why_unwritten(error, "what is unpacked", str(cache.root), "set home")) from error
    summary = summarise(results, len(parts))
    results.finish(summary.to_dict())
    if summary.unread == summary.images:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in summary.examples.items())
        raise DataError(f"none of the {counted(summary.images, 'image')} can be read: {reasons}")
    return summary


def _read(settings: Settings, path: Path | None, scratch: Path) -> ImageSource:
    """Raises DataError where there is no image."""
    source = read_source(path, scratch, settings.max_data, labels_needed=False)
    if settings.data in KNOWN:
        source = describe(source, KNOWN[settings.data])
    if not len(source.labels):
        raise DataError(f"{without_credentials(settings.data)} has no images: it is empty")
    return source


def _processes(given: int, size: int) -> int:
    """How many processes score `size` bytes of data."""
    return given or (1 if size <= IN_PROCESS else available_cpus())


def _scored(parts: Sequence[Partition], work: Work, processes: int, scratch: Path) -> Iterator[int]:
    """The number of images of each part, as it is done."""
    if processes > 1:
        # Imported here: one process alone starts without it.
        from image_classifier.scoring.dask_workers import score_in_processes

        yield from score_in_processes(parts, work, processes, scratch)
    elif parts:
        scorer = PartitionScorer(work)
        yield from map(scorer.score, parts)


def _run(settings: Settings, identity: Identity, path: Path | None, stamps: Stamps) -> dict[str, object]:
    """What all parts of a folder have in common: whatever decides what is in them."""
    # Where a source was fetched, the times are those of the fetch.
    timed = not is_remote(settings.data) and settings.data not in KNOWN
    files = [
        [str(Path(file).relative_to(root)), size, time if timed else 0] for root, file, size, time in stamps
    ]
    signature = hashlib.sha256(json.dumps([files, settings.data if path is None else ""]).encode())
    return {
        "format": _FORMAT,
        "model": f"{identity.name} {identity.version}",
        "model_digest": identity.digest,
        "source": str(path) if timed and path else without_credentials(settings.data),
        "source_signature": signature.hexdigest(),
        "max_pixels": settings.max_pixels,
        "score_top": settings.score_top,
    }
