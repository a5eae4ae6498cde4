"""How often clean images are called drift, and after how many images drift is found.

    python bench/drift.py digits --budget 10s
    python bench/drift.py /work/cifar10 --budget 2m --other digits

False alarms are counted over 1,000 windows, each a draw without replacement. *Divided anew*: reference and window are
drawn from the same images, a new division each time, as the test supposes. *As served*: the package's own reference,
and windows of the test part; of a small test part all windows share what sets it apart from the training part.

The delay is the number of images from the change to the end of the first window that is called drift, over 200 streams
of test images that change at a random place of a window; a stream that is not called drift within 20 windows is missed.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from image_classifier.process import available_cpus, share_cpus

share_cpus()

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter
from scipy.stats import binomtest

from image_classifier.datasets import prepare
from image_classifier.datasets.dataset import Dataset
from image_classifier.evaluation.corruptions import CORRUPTIONS
from image_classifier.evaluation.latency import machine
from image_classifier.images.decoder import Extent, fit
from image_classifier.monitoring.drift_detection import (
    DriftReference,
    DriftVerdict,
    Feature,
    FeatureCounts,
    judge_drift,
)
from image_classifier.package.identity import Identity
from image_classifier.package.package import Images, Model
from image_classifier.serving.observe.drift_windows import Drift
from image_classifier.settings import Settings, load_settings
from image_classifier.training.export import export_package
from image_classifier.training.fit import Plan
from image_classifier.training.fit import fit as train

WINDOWS, STREAMS, LONGEST = 1_000, 200, 20

Places = npt.NDArray[np.int64]
"""int64 [N, F]: the bins that each image falls into."""


def trained(dataset: Dataset, settings: Settings, folder: Path) -> tuple[Model, npt.NDArray[np.int64]]:
    outcome = train(dataset, Plan.of(settings))
    package = export_package(
        folder, outcome.classifier, dataset, outcome.validation, {"run_id": "bench"}, threads=available_cpus()
    )
    return Model.load(package, available_cpus()), outcome.validation


def places_of(reference: DriftReference, model: Model, images: Images) -> Places:
    """As the server counts them."""
    answers = model.probabilities(images)
    size = images.shape[1]
    return np.array(
        [
            [
                *reference.places_of_image(image),
                *reference.places_of_answer(answer),
                *reference.places_of_size(size, size),
            ]
            for image, answer in zip(images, answers, strict=True)
        ]
    )


def counts_of(places: Places, reference: DriftReference) -> FeatureCounts:
    return np.bincount(places.ravel(), minlength=reference.bins)


def with_counts(reference: DriftReference, counts: FeatureCounts) -> DriftReference:
    features = tuple(
        Feature(each.name, each.edges, each.first, counts[each.bins]) for each in reference.features
    )
    return DriftReference(features, reference.classes)


def is_drift(reference: DriftReference, counts: FeatureCounts, settings: Settings) -> bool:
    return judge_drift(reference, counts, settings.drift_false_alarms).verdict is DriftVerdict.DRIFT


def alarms_divided_anew(
    places: Places, references: int, reference: DriftReference, settings: Settings
) -> int:
    random, window = np.random.default_rng(1), settings.drift_window
    alarms = 0
    for _ in range(WINDOWS):
        order = random.permutation(len(places))[: references + window]
        divided = with_counts(reference, counts_of(places[order[:references]], reference))
        alarms += is_drift(divided, counts_of(places[order[references:]], reference), settings)
    return alarms


def alarms_as_served(places: Places, reference: DriftReference, settings: Settings) -> int:
    random, window = np.random.default_rng(2), settings.drift_window
    return sum(
        is_drift(reference, counts_of(places[random.permutation(len(places))[:window]], reference), settings)
        for _ in range(WINDOWS)
    )


def delays(clean: Places, changed: Places, reference: DriftReference, settings: Settings) -> list[int]:
    random, window = np.random.default_rng(3), settings.drift_window
    found = []
    for _ in range(STREAMS):
        before = int(random.integers(window))
        first = [
            clean[random.integers(len(clean), size=before)],
            changed[random.integers(len(changed), size=window - before)],
        ]
        counts, seen = counts_of(np.concatenate(first), reference), window - before
        for _ in range(LONGEST):
            if is_drift(reference, counts, settings):
                found.append(seen)
                break
            counts = counts_of(changed[random.integers(len(changed), size=window)], reference)
            seen += window
    return found


def resized(images: Images, size: int) -> Images:
    return np.stack([fit(Image.fromarray(image), size) for image in images])


def blurred(images: Images, radius: float) -> Images:
    return np.stack(
        [np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius))) for image in images]
    )


def changes(dataset: Dataset, images: Images, other: Dataset) -> dict[str, Images]:
    """What a stream of test images may change to."""
    by_name = {corruption.name: corruption for corruption in CORRUPTIONS}
    side = images.shape[1]
    common = dataset.test.labels[: len(images)] == np.bincount(dataset.test.labels).argmax()
    shares = {
        f"class shift: {dataset.classes[dataset.test.labels[common][0]]} is {share:.0%} of the images": np.concatenate(
            [images[common]] * max(1, round(share / (1 - share) * (~common).sum() / common.sum()))
            + [images[~common]]
        )
        for share in (0.25, 0.5)
    }
    return {
        "darker by a tenth": (images * np.float32(0.9)).astype(np.uint8),
        "darker 0.6": by_name["darker 0.6"].of(images),
        "blurred, 2 % of the side": by_name["blur 0.02"].of(images),
        "blurred, 1 pixel": blurred(images, 1.0),
        "rotated, 12 degrees": by_name["rotation 12 degrees"].of(images),
        "rotated, 90 degrees": np.ascontiguousarray(np.rot90(images, axes=(1, 2))),
        f"another data set: {other.source}": resized(np.asarray(other.test.images[:2_000]), side),
        **shares,
    }


def cost(settings: Settings, model: Model, images: Images) -> tuple[float, float]:
    """Microseconds that a request for one image takes longer, and those to count it later; the middle of many."""
    drift, identity = Drift(settings, model.package), Identity.read(model.package, settings.name)
    answers = model.probabilities(images[:100])
    extent = Extent(*images.shape[1:3])
    left, counted = [], []
    for _ in range(200):
        for image, answer in zip(images[:100], answers, strict=True):
            started = time.perf_counter()
            drift.see(image[np.newaxis], answer[np.newaxis], [extent])
            left.append(time.perf_counter() - started)
        started = time.perf_counter()
        drift.report(identity)
        counted.append((time.perf_counter() - started) / 100)
    return float(np.median(left)) * 1e6, float(np.median(counted)) * 1e6


def shown(alarms: int) -> str:
    low, high = binomtest(alarms, WINDOWS).proportion_ci(method="wilson")
    return f"{alarms} of {WINDOWS:,} windows ({low:.1%} to {high:.1%} at 95 % confidence)"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("--other", default="digits", help="the other data set")
    parser.add_argument("--budget", default="10s")
    parser.add_argument("--window", default="500")
    parser.add_argument("--false-alarms", default="0.01")
    arguments = parser.parse_args()
    print(f"`{' '.join(['python', *sys.argv])}` on {machine()}\n")
    with tempfile.TemporaryDirectory() as home:
        given = {
            "home": home,
            "budget": arguments.budget,
            "drift_window": arguments.window,
            "drift_false_alarms": arguments.false_alarms,
        }
        settings = load_settings({"data": arguments.data, **given}, {})
        dataset = prepare(settings)
        other = prepare(load_settings({"data": arguments.other, "home": home}, {}))
        model, validation = trained(dataset, settings, Path(home) / "package")
        report(settings, dataset, model, validation, changes(dataset, np.asarray(dataset.test.images), other))


def report(
    settings: Settings,
    dataset: Dataset,
    model: Model,
    validation: npt.NDArray[np.int64],
    changed: dict[str, Images],
) -> None:
    reference = DriftReference.of(model.package)
    assert reference is not None
    images = np.asarray(dataset.test.images)
    clean = places_of(reference, model, images)
    unseen = np.concatenate([clean, places_of(reference, model, dataset.train.images[validation])])
    window = settings.drift_window
    left, counted = cost(settings, model, images)
    print(
        f"windows of {window:,} images, {settings.drift_false_alarms:.1%} false alarms at most; the reference has "
        f"{model.package.reference['images']:,} images and {len(validation):,} answers; a request takes {left:.1f} µs "
        f"longer, and to count its image a moment later takes {counted:.0f} µs\n"
    )
    divided = alarms_divided_anew(unseen, len(unseen) - window, reference, settings)
    print(f"false alarms, divided anew: {shown(divided)}")
    if len(images) >= 4 * window:
        served = alarms_as_served(clean, reference, settings)
        print(f"false alarms, as served: {shown(served)}")
    print("\n| from test images to | found in | images until then: median | 95 % within |\n|---|---|---|---|")
    for name, drifted in changed.items():
        found = delays(clean, places_of(reference, model, drifted), reference, settings)
        told = f"{np.median(found):,.0f} | {np.quantile(found, 0.95):,.0f}" if found else "– | –"
        print(f"| {name} | {len(found)} of {STREAMS} | {told} |")


if __name__ == "__main__":
    main()
