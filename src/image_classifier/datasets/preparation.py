"""Prepare a data set: find out what it is, decode it once, and keep it in the cache."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace

from image_classifier.datasets.assembly import allocate, assemble
from image_classifier.datasets.cache import Cache
from image_classifier.datasets.dataset import Dataset
from image_classifier.datasets.decoding import choose_size, decode_source, workers
from image_classifier.datasets.fetch import without_credentials
from image_classifier.datasets.formats import locate, read_source, stamps_of
from image_classifier.datasets.public_datasets import KNOWN, Known, describe
from image_classifier.errors import DataError
from image_classifier.files import why_unwritten
from image_classifier.images import SMALLEST_SIZE
from image_classifier.process import available_cpus
from image_classifier.settings import Settings

_FORMAT = 1
"""Part of every key of the cache; to be raised when decoding changes."""


def prepare(settings: Settings, known: Mapping[str, Known] = KNOWN) -> Dataset:
    """As `image_classifier.datasets.prepare`, with the data sets that are `known` by name."""
    if 0 < settings.image_size < SMALLEST_SIZE:
        raise DataError(
            f"image_size is {settings.image_size}, but must be at least {SMALLEST_SIZE}, or 0: as the data"
        )
    root = settings.home / "cache"
    try:
        dataset = _prepare(settings, Cache(root), known)
    except OSError as error:
        raise DataError(why_unwritten(error, "the prepared data", str(root), "set home")) from error
    if settings.mirror != "auto":
        return replace(dataset, mirror=settings.mirror == "yes")
    return dataset


def _prepare(settings: Settings, cache: Cache, known: Mapping[str, Known]) -> Dataset:
    shown = without_credentials(settings.data)
    path = locate(settings, cache.root / "fetched", known)
    parameters = [_FORMAT, settings.image_size, settings.max_pixels, settings.test_fraction]
    stamps = stamps_of(path)
    signature = _hash([settings.data if settings.data in known else "", stamps, parameters])
    found = cache.find(signature, shown)
    if found is not None:
        return found
    total = sum(size for _, _, size, _ in stamps)
    with cache.draft() as draft, workers(total, available_cpus()) as pool:
        source = read_source(path, draft, settings.max_data)
        if settings.data in known:
            source = describe(source, known[settings.data])
        if not len(source.labels):
            raise DataError(f"{shown} has no images: it is empty")
        size = settings.image_size or choose_size(source, settings.max_pixels)
        pixels = draft / "pixels"
        allocate(pixels, (len(source.labels), size, size, 3))
        decoded = decode_source(source, pixels, size, settings.max_pixels, pool)
        entry = draft / "entry"
        entry.mkdir()
        facts = assemble(source, decoded, pixels, entry, size, settings.test_fraction, shown)
        key = _hash([facts.digest, facts.image_size, facts.mirror, parameters])
        return cache.publish(entry, key, facts, signature, shown)


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]
