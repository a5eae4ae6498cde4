"""Judge a registered version against the champion as the registry has it, and tell it in a report."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from image_classifier.datasets import Dataset
from image_classifier.errors import ImageClassifierError, LostError, PackageError, RegistryError
from image_classifier.evaluation import Evaluation, Pictures, evaluate, latency_ratio
from image_classifier.gate.champion import ChampionComparison, find_opponent
from image_classifier.gate.champion_checks import SIGNIFICANCE
from image_classifier.gate.report import Circumstances, Side, render_report
from image_classifier.gate.statistics import Difference
from image_classifier.gate.verdict import Verdict, judge
from image_classifier.images import decode
from image_classifier.package import Images, Model, Package
from image_classifier.process import available_cpus
from image_classifier.registry import Registry, Version
from image_classifier.registry import artifact_paths as artifacts
from image_classifier.settings import Settings


@dataclass(frozen=True)
class Judgement:
    """A verdict and what it was made from."""

    verdict: Verdict
    candidate: Version
    evaluation: Evaluation
    package: Package
    champion: Version | None
    opponent: ChampionComparison | None
    """None where there is no champion."""


@dataclass(frozen=True)
class Means:
    """What judging takes from the steps before it."""

    registry: Registry
    fetch: Callable[[Version], Package]
    prepare: Callable[[int], Dataset]
    """The data set at an image size."""
    report: Callable[[str], None]


def evaluation_of(registry: Registry, version: Version) -> Evaluation:
    """The recorded evaluation; raises RegistryError where there is none."""
    content = registry.read_artifact(version.run_id, artifacts.EVALUATION)
    if content is None:
        raise RegistryError(
            f"version {version.number} has no evaluation in its run; run `image-classifier evaluate` first"
        )
    return Evaluation.from_json(content)


def judge_version(
    candidate: Version, champion: Version | None, settings: Settings, means: Means
) -> Judgement:
    """Judge a version; the champion is evaluated again where the candidate's test images are others."""
    evaluation = evaluation_of(means.registry, candidate)
    package = means.fetch(candidate)
    if champion is None:
        verdict = judge(evaluation, None, settings)
        return Judgement(verdict, candidate, evaluation, package, None, None)
    opponent = _opponent(champion, evaluation, settings, means)
    ratio = _latency_ratio(package, opponent.model) if opponent.evaluation and opponent.model else None
    verdict = judge(evaluation, opponent.evaluation, settings, latency_ratio=ratio, alone=opponent.why)
    return Judgement(verdict, candidate, evaluation, package, champion, opponent)


def report_of(judgement: Judgement, registry: Registry, *, actor: str) -> str:
    """The report as HTML, with what the evaluation left in the registry."""
    candidate, champion, opponent = judgement.candidate, judgement.champion, judgement.opponent
    pictures = registry.read_artifact(candidate.run_id, artifacts.PICTURES)
    side = None
    if champion is not None and opponent is not None:
        provenance = opponent.model.package.provenance if opponent.model else {}
        side = Side(f"version {champion.number}", opponent.evaluation, provenance)
    return render_report(
        judgement.verdict,
        Side(f"version {candidate.number}", judgement.evaluation, judgement.package.provenance),
        side,
        Circumstances(
            model=candidate.name,
            time=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            actor=actor,
            records=registry.page_of(candidate.run_id),
        ),
        pictures=Pictures.from_json(pictures) if pictures else None,
        learning_curve=registry.read_artifact(candidate.run_id, artifacts.LEARNING_CURVE),
    )


def _opponent(
    champion: Version, candidate: Evaluation, settings: Settings, means: Means
) -> ChampionComparison:
    def evaluate_again(model: Model) -> Evaluation:
        means.report(f"version {champion.number}, the champion, is evaluated on the candidate's test images")
        dataset = means.prepare(model.package.image_size)
        if dataset.digest != candidate.data_digest:
            raise ImageClassifierError(
                f"the candidate was evaluated on data {candidate.data_digest[:12]}, but --data {settings.data} "
                f"is now {dataset.digest[:12]}; name the candidate's data, or train again"
            )
        return evaluate(
            model, dataset, test_fraction=settings.test_fraction, abstain_error=settings.abstain_error
        )[0]

    try:
        content = means.registry.read_artifact(champion.run_id, artifacts.EVALUATION)
    except LostError:
        content = None
    try:
        model = Model.load(means.fetch(champion), available_cpus())
    except (LostError, PackageError) as error:
        means.report(f"warning: version {champion.number}, the champion, cannot be asked: {error}")
        model = None
    known = Evaluation.from_json(content) if content else None
    return find_opponent(champion.number, candidate, known, model, evaluate_again)


def _latency_ratio(candidate: Package, champion: Model) -> Difference:
    """How many times as long the candidate takes, each on its own golden images."""

    def subject(model: Model) -> tuple[Model, Images]:
        size = model.package.image_size
        return model, np.stack([decode(golden.png, size, size * size) for golden in model.package.golden])

    return latency_ratio(subject(Model.load(candidate, available_cpus())), subject(champion), SIGNIFICANCE)
