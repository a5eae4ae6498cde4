"""Preparation of a data set: locate it, decode it, check it, and keep the result in the cache."""

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from image_classifier.datasets.assembly import allocate, assemble
from image_classifier.datasets.cache import NAMES, Cache
from image_classifier.datasets.dataset import Dataset
from image_classifier.datasets.formats import read_source
from image_classifier.datasets.image_source import UNLABELED, FileShard, ImageSource, Shard, StoredImage
from image_classifier.datasets.labeling import LabelOptions
from image_classifier.datasets.layout import AUTO
from image_classifier.datasets.location import file_stamps, locate, table_stamps
from image_classifier.datasets.parallel_decoding import choose_image_size, decode_source, worker_pool
from image_classifier.datasets.public_datasets import PUBLIC_DATASETS, PublicDataset, apply_metadata
from image_classifier.datasets.shard_decoding import content_digest, decode_stored_image
from image_classifier.errors import DataError, ImageError
from image_classifier.files import sha256_of, why_unwritten
from image_classifier.images import CROP, MIN_IMAGE_SIZE, PAD
from image_classifier.process import available_cpus
from image_classifier.text import counted, readable, without_credentials

_SAMPLE_BATCH = 16


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
    framing: str = CROP
    """`CROP` or `PAD`; "auto" stands for `CROP` here, as a training tries padding later."""


def prepare(request: DataRequest, public: Mapping[str, PublicDataset] = PUBLIC_DATASETS) -> Dataset:
    """Returns the data set, from the cache if its source did not change; `public` data sets can be used by name.

    Raises DataError if the data cannot be found, downloaded, read or used, or if there is no space for the result.
    """
    if 0 < request.image_size < MIN_IMAGE_SIZE:
        raise DataError(
            f"image_size is {request.image_size}, but must be at least {MIN_IMAGE_SIZE}, or 0 for the data's own size"
        )
    request = replace(request, framing=PAD if request.framing == PAD else CROP)
    with _readable_errors(request) as cache:
        dataset = _prepare(request, cache, public)
    mirror = dataset.mirror if request.mirror == "auto" else request.mirror == "yes"
    return replace(dataset, mirror=mirror, framing=request.framing)


def decode_sample(
    request: DataRequest,
    dataset: Dataset,
    rows: NDArray[np.int64],
    framings: Sequence[str],
    public: Mapping[str, PublicDataset] = PUBLIC_DATASETS,
) -> tuple[NDArray[np.int64], list[NDArray[np.uint8]]]:
    """Decode some images of the training part again, at the request's image size S, with each of the framings.

    Returns the M rows whose images are found unchanged in the source, and for each framing their images, uint8
    [M, S, S, 3]. Raises DataError as `prepare` does.
    """
    images: dict[int, list[NDArray[np.uint8]]] = {}
    wanted = {dataset.train.names[row]: row for row in rows.tolist()}

    def decode(row: int, image: StoredImage) -> None:
        if isinstance(image, ImageError) or content_digest(image)[:8] != int(dataset.train.hashes[row]).to_bytes(8):
            return
        with suppress(ImageError):
            images[row] = [decode_stored_image(image, size, request.max_pixels, framing)[0] for framing in framings]

    size = request.image_size
    with _readable_errors(request) as cache, cache.draft() as draft, ThreadPoolExecutor(available_cpus()) as pool:
        stored = _sample(_read(request, _locate(request, cache, public), draft, public), wanted)
        while batch := list(islice(stored, _SAMPLE_BATCH)):
            list(pool.map(decode, *zip(*batch, strict=True)))
    found = rows[np.isin(rows, list(images))]
    return found, [
        np.array([images[row][place] for row in found.tolist()], np.uint8).reshape(-1, size, size, 3)
        for place in range(len(framings))
    ]


def _sample(source: ImageSource, wanted: Mapping[str, int]) -> Iterator[tuple[int, StoredImage]]:
    """Yield the images with these names, and the number that belongs to each."""
    start = 0
    for shard in source.shards:
        names = source.names[start : start + shard.count]
        start += shard.count
        places = [place for place, name in enumerate(names) if name in wanted]
        if places:
            yield from zip((wanted[names[place]] for place in places), _read_places(shard, places), strict=False)


def _read_places(shard: Shard, places: list[int]) -> Iterator[StoredImage]:
    if isinstance(shard, FileShard):
        return FileShard(tuple(shard.paths[place] for place in places)).read()
    return (image for place, image in enumerate(islice(shard.read(), places[-1] + 1)) if place in set(places))


@contextmanager
def _readable_errors(request: DataRequest) -> Iterator[Cache]:
    """Yield the cache, and convert errors in it to a DataError."""
    root = request.home / "cache"
    try:
        yield Cache(root)
    except DataError as error:
        # It may name files whose names are not UTF-8.
        raise DataError(readable(str(error))) from error
    except OSError as error:
        raise DataError(why_unwritten(error, "the prepared data", str(root), "set home")) from error


def _prepare(request: DataRequest, cache: Cache, public: Mapping[str, PublicDataset]) -> Dataset:
    shown = readable(without_credentials(request.data))
    path = _locate(request, cache, public)
    stamps = file_stamps(path)

    def signature(parameters: list[object]) -> str:
        return _hash([request.data if request.data in public else "", stamps, parameters])

    parameters = _parameters(request)
    cached = cache.find(signature(parameters), shown)
    if cached is not None:
        return cached
    total = sum(size for _, _, size, _ in stamps)
    with cache.draft() as draft, worker_pool(total, available_cpus()) as pool:
        source = _read(request, path, draft, public)
        if not len(source.labels):
            raise DataError(f"{shown} has no images: it is empty")
        if request.test_part == "validation":
            source = _with_validation_as_test(source, shown)
        size = request.image_size or choose_image_size(source, request.max_pixels, request.photo_size, request.framing)
        pixels = draft / "pixels"
        allocate(pixels, (len(source.labels), size, size, 3))
        decoded = decode_source(source, pixels, size, request.max_pixels, pool, request.framing)
        entry = draft / "entry"
        entry.mkdir()
        metadata = assemble(source, decoded, pixels, entry, size, request.test_fraction, shown, request.framing)
        shown_parts = [metadata.warnings, sha256_of(entry / NAMES)]
        key = _hash([metadata.digest, metadata.image_size, metadata.mirror, shown_parts, parameters])
        # Later steps request the same images by their size.
        by_size = _parameters(replace(request, image_size=size, photo_size=0))
        return cache.publish(entry, key, metadata, [signature(parameters), signature(by_size)], shown)


def _parameters(request: DataRequest) -> list[object]:
    parameters = [_code_digest(), request.image_size, request.max_pixels, request.test_fraction, request.test_part]
    parameters += [astuple(_label_options(request)), table_stamps(request.labels), request.photo_size]
    return parameters + ([PAD] if request.framing == PAD else [])


def _locate(request: DataRequest, cache: Cache, public: Mapping[str, PublicDataset]) -> Path | None:
    return locate(request.data, cache.root / "fetched", public, request.fetch_timeout, request.max_data)


def _label_options(request: DataRequest) -> LabelOptions:
    return LabelOptions(request.layout, request.labels, request.label_column)


def _read(request: DataRequest, path: Path | None, draft: Path, public: Mapping[str, PublicDataset]) -> ImageSource:
    source = read_source(path, draft, request.max_data, _label_options(request))
    return apply_metadata(source, public[request.data]) if request.data in public else source


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
