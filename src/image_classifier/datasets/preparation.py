"""Preparation of a data set: locate it, decode it, check it, and keep the result in the cache."""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
import PIL

from image_classifier.datasets.assembly import allocate, assemble
from image_classifier.datasets.cache import NAMES, Cache
from image_classifier.datasets.dataset import Dataset
from image_classifier.datasets.formats import read_source
from image_classifier.datasets.image_source import UNLABELED, ImageSource
from image_classifier.datasets.labeling import LabelOptions
from image_classifier.datasets.layout import AUTO
from image_classifier.datasets.location import file_stamps, locate, table_stamps
from image_classifier.datasets.parallel_decoding import choose_image_size, decode_source, worker_pool
from image_classifier.datasets.public_datasets import PUBLIC_DATASETS, PublicDataset, apply_metadata
from image_classifier.errors import DataError
from image_classifier.files import sha256_of, why_unwritten
from image_classifier.images import MIN_IMAGE_SIZE
from image_classifier.process import available_cpus
from image_classifier.text import counted, readable, without_credentials


@dataclass(frozen=True)
class DataRequest:
    """Which data set to prepare, and how. The settings of the same names describe the fields."""

    home: Path
    """Its folder `cache` holds the cache."""
    data: str
    image_size: int
    max_pixels: int
    max_data: int
    """Bytes."""
    test_fraction: float
    fetch_timeout: float
    """Seconds."""
    mirror: str
    test_part: str
    """"auto" or "validation"."""
    layout: str = AUTO
    labels: str = ""
    label_column: str = ""
    photo_size: int = 0
    """The size of photos if `image_size` is 0: that of the backbone; 0 for none."""


def prepare(request: DataRequest, public: Mapping[str, PublicDataset] = PUBLIC_DATASETS) -> Dataset:
    """Returns the data set, from the cache if its source did not change; `public` data sets can be used by name.

    Raises DataError if the data cannot be found, downloaded, read or used, or if there is no space for the result.
    """
    if 0 < request.image_size < MIN_IMAGE_SIZE:
        raise DataError(
            f"image_size is {request.image_size}, but must be at least {MIN_IMAGE_SIZE}, or 0 for the data's own size"
        )
    root = request.home / "cache"
    try:
        dataset = _prepare(request, Cache(root), public)
    except DataError as error:
        # It may name files whose names are not UTF-8.
        raise DataError(readable(str(error))) from error
    except OSError as error:
        raise DataError(why_unwritten(error, "the prepared data", str(root), "set home")) from error
    return dataset if request.mirror == "auto" else replace(dataset, mirror=request.mirror == "yes")


def _prepare(request: DataRequest, cache: Cache, public: Mapping[str, PublicDataset]) -> Dataset:
    shown = readable(without_credentials(request.data))
    path = locate(request.data, cache.root / "fetched", public, request.fetch_timeout, request.max_data)
    options = LabelOptions(request.layout, request.labels, request.label_column)
    parameters = [_code_digest(), request.image_size, request.max_pixels, request.test_fraction, request.test_part]
    parameters += [astuple(options), table_stamps(request.labels), request.photo_size]
    stamps = file_stamps(path)
    signature = _hash([request.data if request.data in public else "", stamps, parameters])
    cached = cache.find(signature, shown)
    if cached is not None:
        return cached
    total = sum(size for _, _, size, _ in stamps)
    with cache.draft() as draft, worker_pool(total, available_cpus()) as pool:
        source = read_source(path, draft, request.max_data, options)
        if request.data in public:
            source = apply_metadata(source, public[request.data])
        if not len(source.labels):
            raise DataError(f"{shown} has no images: it is empty")
        if request.test_part == "validation":
            source = _with_validation_as_test(source, shown)
        size = request.image_size or choose_image_size(source, request.max_pixels, request.photo_size)
        pixels = draft / "pixels"
        allocate(pixels, (len(source.labels), size, size, 3))
        decoded = decode_source(source, pixels, size, request.max_pixels, pool)
        entry = draft / "entry"
        entry.mkdir()
        metadata = assemble(source, decoded, pixels, entry, size, request.test_fraction, shown)
        shown_parts = [metadata.warnings, sha256_of(entry / NAMES)]
        key = _hash([metadata.digest, metadata.image_size, metadata.mirror, shown_parts, parameters])
        return cache.publish(entry, key, metadata, signature, shown)


def _with_validation_as_test(source: ImageSource, origin: str) -> ImageSource:
    if not source.in_validation.any():
        raise DataError(f"test_part is validation, but {origin} has no validation part")
    skipped = counted(int(source.in_test.sum()), "image")
    warning = (f"skipped {skipped} of the test part, because test_part is validation",) if source.in_test.any() else ()
    return replace(
        source,
        labels=np.where(source.in_test, UNLABELED, source.labels),
        in_test=source.in_validation,
        in_validation=np.zeros_like(source.in_validation),
        warnings=(*source.warnings, *warning),
    )


@functools.cache
def _code_digest() -> str:
    """Hash of the code that makes cached data sets, and of Pillow's version: a change of it prepares them again."""
    digest = hashlib.sha256(PIL.__version__.encode())
    for room in ("datasets", "images"):
        for module in sorted((Path(__file__).parents[1] / room).glob("*.py")):
            digest.update(module.read_bytes())
    return digest.hexdigest()


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]
