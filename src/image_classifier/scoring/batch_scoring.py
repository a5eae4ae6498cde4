"""Batch scoring of a source: find its images, score those that no earlier run has scored, and summarize."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from image_classifier.datasets import (
    MAX_IN_PROCESS_BYTES,
    PUBLIC_DATASETS,
    Cache,
    ImageSource,
    apply_metadata,
    file_stamps,
    is_remote,
    locate,
    read_source,
)
from image_classifier.errors import DataError
from image_classifier.files import why_unwritten
from image_classifier.package import ModelIdentity, Package
from image_classifier.process import available_cpus
from image_classifier.progress import Progress
from image_classifier.scoring.partition import Partition, split_source
from image_classifier.scoring.partition_scorer import PartitionScorer, ScoringJob
from image_classifier.scoring.score_files import ScoreFiles
from image_classifier.text import Report, counted, listed, without_credentials

_FORMAT = 1  # of the score files; to be raised if their columns, or the partitions of a source, change
_EXAMPLES = 5  # of images that cannot be read

Stamps = Sequence[tuple[str, str, int, int]]  # root, path, size in bytes and modification time of each file


@dataclass(frozen=True)
class ScoreRequest:
    """What to score, and where to write the scores. The settings of the same names describe the fields."""

    name: str  # name of a model that is not from a registry
    home: Path
    data: str
    to: str
    score_top: int
    score_processes: int
    max_pixels: int
    max_data: int  # bytes
    fetch_timeout: float  # seconds


@dataclass(frozen=True)
class Summary:
    """Counts over all rows. The field names are those of _summary.json."""

    images: int
    unread: int  # images with an error instead of a label
    examples: dict[str, str]  # the first of these, with the reason
    labels: dict[str, int]  # number of images by predicted class, the most frequent first
    given_labels: int  # scored images with a label in the source
    agreeing: int  # those for which the model predicted this label

    @property
    def sentence(self) -> str:
        text = f"scored {counted(self.images, 'image')}"
        if self.unread:
            examples = listed([f"{source} ({reason})" for source, reason in self.examples.items()])
            rest = self.unread - len(self.examples)
            more = f" and {rest:,} more" if rest else ""
            text = (
                f"scored {self.images - self.unread:,} of {counted(self.images, 'image')}; cannot read {examples}{more}"
            )
        if self.given_labels:
            accuracy = 100 * self.agreeing / self.given_labels
            text += f"; accuracy {accuracy:.2f} % on {counted(self.given_labels, 'labeled image')}"
        return text

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def score_source(request: ScoreRequest, package: Package, report: Report) -> Summary:
    """Score the images of the source `data` into the folder `to`; partitions that are already there are kept.

    Raises DataError if the source or the folder cannot be used, or if no image can be read.
    """
    files = ScoreFiles.at(request.to)
    cache = Cache(request.home / "cache")
    identity = ModelIdentity.read(package, request.name)
    try:
        path = locate(request.data, cache.root / "fetched", PUBLIC_DATASETS, request.fetch_timeout, request.max_data)
        stamps = file_stamps(path)
        if path is not None and files.is_inside(path):
            raise DataError(f"{files.address} is inside {path}, the data to score; set --to to another folder")
        run = _describe_run(request, identity, path, stamps)
        files.check(run)
        with cache.draft() as scratch:
            source = _read(request, path, scratch)
            for warning in source.warnings:
                report(f"warning: {warning}")
            # Folders of unlabeled images have names, too, such as years.
            labeled = not set(source.classes).isdisjoint(package.classes)
            if source.classes and not labeled:
                report(f"ignored the labels of the source ({listed(source.classes)}): none is a class of the model")
            partitions = split_source(source, labeled=labeled)
            done = files.start(run)
            remaining = [partition for partition in partitions if partition.number not in done]
            images = sum(partition.count for partition in remaining)
            if len(remaining) < len(partitions):
                before = counted(len(source.labels) - images, "image")
                report(f"resuming: {before} already scored, {images:,} remaining")
            job = ScoringJob(
                package=package.folder.absolute(),
                model=identity.to_dict(),
                source_classes=source.classes,
                max_pixels=request.max_pixels,
                top=request.score_top,
                files=files,
            )
            size = sum(size for _, _, size, _ in stamps)
            automatic = 1 if size <= MAX_IN_PROCESS_BYTES else available_cpus()
            processes = min(request.score_processes or automatic, len(remaining))
            with Progress("score", images, "images") as progress:
                for count in _score(remaining, job, processes, scratch):
                    progress.advance(count)
    except OSError as error:
        raise DataError(why_unwritten(error, "the unpacked data", str(cache.root), "set home")) from error
    summary = _summarize(files, len(partitions))
    files.finish(summary.to_dict())
    if summary.unread == summary.images:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in summary.examples.items())
        raise DataError(f"none of the images can be read ({summary.images:,} in total): {reasons}")
    return summary


def _read(request: ScoreRequest, path: Path | None, scratch: Path) -> ImageSource:
    """Raises DataError if there is no image."""
    source = read_source(path, scratch, request.max_data, labels_needed=False)
    if request.data in PUBLIC_DATASETS:
        source = apply_metadata(source, PUBLIC_DATASETS[request.data])
    if not len(source.labels):
        raise DataError(f"{without_credentials(request.data)} contains no images")
    return source


def _score(partitions: Sequence[Partition], job: ScoringJob, processes: int, scratch: Path) -> Iterator[int]:
    """Yield the number of images of each partition when it is done."""
    if processes > 1:
        # Imported only if needed, because it takes half a second.
        from image_classifier.scoring.dask_workers import score_in_processes

        yield from score_in_processes(partitions, job, processes, scratch)
    elif partitions:
        scorer = PartitionScorer(job)
        yield from map(scorer.score, partitions)


def _describe_run(
    request: ScoreRequest, identity: ModelIdentity, path: Path | None, stamps: Stamps
) -> dict[str, object]:
    """Everything that decides on the content of the score files; the same for all partitions."""
    # The modification times of downloaded files are those of the download.
    timed = not is_remote(request.data) and request.data not in PUBLIC_DATASETS
    files = [[str(Path(file).relative_to(root)), size, time if timed else 0] for root, file, size, time in stamps]
    signature = hashlib.sha256(json.dumps([files, request.data if path is None else ""]).encode())
    return {
        "format": _FORMAT,
        "model": f"{identity.name} {identity.version}",
        "model_digest": identity.digest,
        "source": str(path) if timed and path else without_credentials(request.data),
        "source_signature": signature.hexdigest(),
        "max_pixels": request.max_pixels,
        "score_top": request.score_top,
    }


def _summarize(files: ScoreFiles, partitions: int) -> Summary:
    """Read the score files of all partitions and count. Raises DataError if one is damaged."""
    import pyarrow.compute as pc

    images = unread = given_labels = agreeing = 0
    examples: dict[str, str] = {}
    labels: Counter[str] = Counter()
    for batch in files.read_columns(("source", "given_label", "label", "error"), partitions):
        images += batch.num_rows
        errors = batch.num_rows - batch["error"].null_count
        if errors and len(examples) < _EXAMPLES:
            rows = batch.filter(pc.is_valid(batch["error"])).slice(0, _EXAMPLES - len(examples))
            examples |= dict(zip(rows["source"].to_pylist(), rows["error"].to_pylist(), strict=True))
        unread += errors
        counts: list[Any] = pc.value_counts(batch["label"].drop_null()).to_pylist()
        labels.update({item["values"]: item["counts"] for item in counts})
        # Null if either label is null.
        equal = pc.equal(batch["label"], batch["given_label"])
        given_labels += len(equal) - equal.null_count
        agreeing += pc.sum(equal).as_py() or 0
    return Summary(images, unread, examples, dict(labels.most_common()), given_labels, agreeing)
