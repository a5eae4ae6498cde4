"""False alarm rate and detection delay of the drift detection.

    python bench/drift.py digits --budget 10s
    python bench/drift.py /work/cifar10 --budget 2m --other digits

False alarms are counted over 1,000 windows, each drawn without replacement, in two ways. *Random splits*: reference and
window are drawn from the same images, split anew each time, as the test assumes. *As served*: the package's own
reference, and windows of the test part; all windows of a small test part share its difference from the training part.

The delay is the number of images from a change to the end of the first window with drift, over 200 streams of test
images that change at a random position within a window; drift that is not detected within 20 windows is missed.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from image_classifier.process import available_cpus, limit_thread_spinning

limit_thread_spinning()

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from image_classifier.datasets import DataRequest, Dataset, prepare
from image_classifier.evaluation import CORRUPTIONS, wilson_interval
from image_classifier.evaluation.latency import describe_machine
from image_classifier.images import Dimensions, fit_to_square
from image_classifier.monitoring import DriftReference, DriftVerdict, FeatureCounts, detect_drift
from image_classifier.monitoring.drift_reference import Feature
from image_classifier.package import Images, Model, ModelIdentity
from image_classifier.serving.observe.drift_monitor import DriftMonitor
from image_classifier.settings import Settings, load_settings, pick
from image_classifier.training import Plan, export_package, fit

WINDOWS, STREAMS, MAX_WINDOWS_TO_DETECTION = 1_000, 200, 20

Bins = npt.NDArray[np.int64]
"""int64 [N, F]: the bin of each of F features for each image."""


def train(dataset: Dataset, settings: Settings, folder: Path) -> tuple[Model, npt.NDArray[np.int64]]:
    """The trained model, and the rows of its validation split."""
    trained = fit(dataset, pick(settings, Plan, threads=available_cpus()))
    package = export_package(
        folder, trained.classifier, dataset, trained.validation, {"run_id": "bench"}, threads=available_cpus()
    )
    return Model.load(package, available_cpus()), trained.validation


def bins_of(reference: DriftReference, model: Model, images: Images) -> Bins:
    """The bins that the server would count."""
    size = images.shape[1]
    return np.array(
        [
            [*reference.image_bins(image), *reference.prediction_bins(probabilities), *reference.size_bins(size, size)]
            for image, probabilities in zip(images, model.probabilities(images), strict=True)
        ]
    )


def counts_of(bins: Bins, reference: DriftReference) -> FeatureCounts:
    return np.bincount(bins.ravel(), minlength=reference.bin_count)


def with_counts(reference: DriftReference, counts: FeatureCounts) -> DriftReference:
    features = tuple(Feature(each.name, each.edges, each.first, counts[each.bins]) for each in reference.features)
    return DriftReference(features, reference.classes)


def is_drift(reference: DriftReference, counts: FeatureCounts, settings: Settings) -> bool:
    return detect_drift(reference, counts, settings.drift_false_alarms).verdict is DriftVerdict.DRIFT


def false_alarms_of_random_splits(
    bins: Bins, reference_images: int, reference: DriftReference, settings: Settings
) -> int:
    random, window = np.random.default_rng(1), settings.drift_window
    alarms = 0
    for _ in range(WINDOWS):
        order = random.permutation(len(bins))[: reference_images + window]
        split = with_counts(reference, counts_of(bins[order[:reference_images]], reference))
        alarms += is_drift(split, counts_of(bins[order[reference_images:]], reference), settings)
    return alarms


def false_alarms_as_served(bins: Bins, reference: DriftReference, settings: Settings) -> int:
    random, window = np.random.default_rng(2), settings.drift_window
    return sum(
        is_drift(reference, counts_of(bins[random.permutation(len(bins))[:window]], reference), settings)
        for _ in range(WINDOWS)
    )


def delays(clean: Bins, changed: Bins, reference: DriftReference, settings: Settings) -> list[int]:
    """Number of images until the detection, of the streams whose drift was detected."""
    random, window = np.random.default_rng(3), settings.drift_window
    found = []
    for _ in range(STREAMS):
        before = int(random.integers(window))
        first = [
            clean[random.integers(len(clean), size=before)],
            changed[random.integers(len(changed), size=window - before)],
        ]
        counts, images = counts_of(np.concatenate(first), reference), window - before
        for _ in range(MAX_WINDOWS_TO_DETECTION):
            if is_drift(reference, counts, settings):
                found.append(images)
                break
            counts = counts_of(changed[random.integers(len(changed), size=window)], reference)
            images += window
    return found


def resized(images: Images, size: int) -> Images:
    return np.stack([fit_to_square(Image.fromarray(image), size) for image in images])


def blurred(images: Images, radius: float) -> Images:
    return np.stack([np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius))) for image in images])


def changes(dataset: Dataset, images: Images, other: Dataset) -> dict[str, Images]:
    """Changed test images, by a description of the change."""
    by_name = {corruption.name: corruption for corruption in CORRUPTIONS}
    side = images.shape[1]
    labels = dataset.test.labels[: len(images)]
    majority = np.bincount(dataset.test.labels).argmax()
    chosen = labels == majority
    class_shifts = {
        f"class shift: {dataset.classes[majority]} in {100 * share:.0f} % of the images": np.concatenate(
            [images[chosen]] * max(1, round(share / (1 - share) * (~chosen).sum() / chosen.sum())) + [images[~chosen]]
        )
        for share in (0.25, 0.5)
    }
    return {
        "10 % darker": (images * np.float32(0.9)).astype(np.uint8),
        "40 % darker": by_name["darker 0.6"].apply(images),
        "blurred by 2 % of the side": by_name["blur 0.02"].apply(images),
        "blurred by 1 pixel": blurred(images, 1.0),
        "rotated by 12 degrees": by_name["rotation 12 degrees"].apply(images),
        "rotated by 90 degrees": np.ascontiguousarray(np.rot90(images, axes=(1, 2))),
        f"another data set: {other.source}": resized(np.asarray(other.test.images[:2_000]), side),
        **class_shifts,
    }


def cost(settings: Settings, model: Model, images: Images) -> tuple[float, float]:
    """Median time in µs that observing an image adds to its request, and to count it afterwards."""
    monitor = DriftMonitor(model.package, window=settings.drift_window, false_alarms=settings.drift_false_alarms)
    identity = ModelIdentity.read(model.package, settings.name)
    predictions = model.probabilities(images[:100])
    dimensions = Dimensions(*images.shape[1:3])
    observing, counting = [], []
    for _ in range(200):
        for image, probabilities in zip(images[:100], predictions, strict=True):
            started = time.perf_counter()
            monitor.observe(image[np.newaxis], probabilities[np.newaxis], [dimensions])
            observing.append(time.perf_counter() - started)
        started = time.perf_counter()
        monitor.report(identity)
        counting.append((time.perf_counter() - started) / 100)
    return float(np.median(observing)) * 1e6, float(np.median(counting)) * 1e6


def rate(alarms: int) -> str:
    low, high = wilson_interval(alarms, WINDOWS)
    return f"{alarms} of {WINDOWS:,} windows ({100 * low:.1f} to {100 * high:.1f} % with 95 % confidence)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--other", default="digits", help="another data set, to which the images change")
    parser.add_argument("--budget", default="10s")
    parser.add_argument("--window", default="500")
    parser.add_argument("--false-alarms", default="0.01")
    arguments = parser.parse_args()
    print(f"`{' '.join(['python', *sys.argv])}` on {describe_machine()}\n")
    with tempfile.TemporaryDirectory() as home:
        options = {
            "home": home,
            "budget": arguments.budget,
            "drift_window": arguments.window,
            "drift_false_alarms": arguments.false_alarms,
        }
        settings = load_settings({"data": arguments.data, **options}, {})
        request = pick(settings, DataRequest)
        dataset, other = prepare(request), prepare(pick(settings, DataRequest, data=arguments.other))
        model, validation = train(dataset, settings, Path(home) / "package")
        report(settings, dataset, model, validation, changes(dataset, np.asarray(dataset.test.images), other))


def report(
    settings: Settings, dataset: Dataset, model: Model, validation: npt.NDArray[np.int64], changed: dict[str, Images]
) -> None:
    reference = DriftReference.of(model.package)
    assert reference is not None
    images = np.asarray(dataset.test.images)
    clean = bins_of(reference, model, images)
    unseen = np.concatenate([clean, bins_of(reference, model, dataset.train.images[validation])])
    window = settings.drift_window
    observing, counting = cost(settings, model, images)
    print(
        f"Windows of {window:,} images, maximum false alarm rate {100 * settings.drift_false_alarms:.1f} %. Reference "
        f"of {model.package.reference['images']:,} images and {len(validation):,} predictions. Observing an image adds "
        f"{observing:.1f} µs to its request; counting it later takes {counting:.0f} µs.\n"
    )
    alarms = false_alarms_of_random_splits(unseen, len(unseen) - window, reference, settings)
    print(f"False alarms, random splits: {rate(alarms)}")
    if len(images) >= 4 * window:
        print(f"False alarms, as served: {rate(false_alarms_as_served(clean, reference, settings))}")
    print("\n| change | detected | median delay (images) | p95 delay (images) |\n|---|---|---|---|")
    for name, drifted in changed.items():
        found = delays(clean, bins_of(reference, model, drifted), reference, settings)
        quantiles = f"{np.median(found):,.0f} | {np.quantile(found, 0.95):,.0f}" if found else "– | –"
        print(f"| {name} | {len(found)} of {STREAMS} | {quantiles} |")


if __name__ == "__main__":
    main()
