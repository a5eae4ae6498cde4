"""The gate's comparisons: a candidate must not be surely worse than the champion on the same images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from image_classifier.evaluation import Evaluation
from image_classifier.gate.rule_result import (
    AT_MOST,
    ERROR,
    POINTS,
    TIMES,
    RuleOutcome,
    RuleResult,
    by_interval,
)
from image_classifier.gate.statistics import (
    Answers,
    Difference,
    accuracy_difference,
    adjusted_for_many,
    calibration_difference,
    chance_of_drop,
    paired_difference,
    score_difference,
)
from image_classifier.settings import Settings
from image_classifier.text import shortened

FALSE_REFUSALS = 0.05
"""Of candidates that are no worse than their champion, at most so many are called worse."""
CALIBRATION_MARGIN = 0.02
"""So much more calibration error than the champion's is still no worse."""


@dataclass(frozen=True)
class Pair:
    """A candidate and its champion, evaluated on the same test images in the same order."""

    candidate: Evaluation
    champion: Evaluation
    latency_ratio: Difference | None
    """How many times as long the candidate takes, timed in turn on one machine; None: they were timed apart."""


def _accuracy_drop(pair: Pair, settings: Settings) -> RuleResult:
    candidate, champion = pair.candidate, pair.champion
    difference = accuracy_difference(candidate.right, champion.right, SIGNIFICANCE)
    return _at_least(
        "max-accuracy-drop",
        f"accuracy {candidate.accuracy:.2%} against the champion's {champion.accuracy:.2%} "
        f"({difference.low:+.2%} to {difference.high:+.2%}; at most {settings.max_accuracy_drop:.2%} lower is "
        "allowed)",
        difference,
        -settings.max_accuracy_drop,
    )


def _not_worse(pair: Pair, _: Settings) -> RuleResult:
    candidate, champion = pair.candidate.right, pair.champion.right
    difference = paired_difference(candidate, champion, SIGNIFICANCE)
    gained, lost = int(np.sum(candidate & ~champion)), int(np.sum(~candidate & champion))
    return _at_least(
        "not-worse-than-champion",
        f"of {len(candidate):,} test images it loses {lost:,} that the champion gets right and gains {gained:,} "
        f"({difference.low:+.2%} to {difference.high:+.2%} of all)",
        difference,
        0.0,
    )


def _recall_drop(pair: Pair, settings: Settings) -> RuleResult:
    labels = np.array(pair.candidate.labels)
    rows = {repr(name): labels == index for index, name in enumerate(pair.candidate.classes)}
    return _none_worse(
        "max-recall-drop",
        ("class", "recognised"),
        settings.max_recall_drop,
        {
            name: (pair.candidate.right[chosen], pair.champion.right[chosen])
            for name, chosen in rows.items()
            if chosen.any()
        },
    )


def _robustness_drop(pair: Pair, settings: Settings) -> RuleResult:
    rule = "max-robustness-drop"
    candidate, champion = pair.candidate.robustness, pair.champion.robustness
    names = [name for name in pair.candidate.corruptions if name in pair.champion.corruptions]
    # A model of another image size was asked for fewer or more of the same test images.
    count = min(len(evaluated.rows) if evaluated else 0 for evaluated in (candidate, champion))
    if candidate is None or champion is None or not names or candidate.rows[:count] != champion.rows[:count]:
        reason = "robustness was not measured on the same images of both"
        return RuleResult(
            rule, RuleOutcome.UNDECIDED, reason, threshold=-settings.max_robustness_drop, unit=POINTS
        )
    return _none_worse(
        rule,
        ("corruption", "answered"),
        settings.max_robustness_drop,
        {
            repr(name): (pair.candidate.right_under(name)[:count], pair.champion.right_under(name)[:count])
            for name in names
        },
    )


def _calibration_rise(pair: Pair, _: Settings) -> RuleResult:
    candidate, champion = pair.candidate, pair.champion
    rise = calibration_difference(
        candidate.calibration_deviations, champion.calibration_deviations, SIGNIFICANCE
    )
    return RuleResult(
        "calibration-not-worse",
        by_interval(rise.low, rise.high, CALIBRATION_MARGIN, AT_MOST),
        f"calibration error {candidate.calibration_error:.3f} against the champion's "
        f"{champion.calibration_error:.3f} ({rise.low:+.3f} to {rise.high:+.3f}; at most "
        f"{CALIBRATION_MARGIN:.3f} higher is allowed)",
        measured=rise.value,
        low=rise.low,
        high=rise.high,
        threshold=CALIBRATION_MARGIN,
        bound=AT_MOST,
        unit=ERROR,
    )


def _latency_rise(pair: Pair, settings: Settings) -> RuleResult:
    rule, most = "max-latency-ratio", settings.max_latency_ratio
    candidate, champion = pair.candidate, pair.champion
    if pair.latency_ratio is not None:
        ratio, how = pair.latency_ratio, "timed in turn"
    elif candidate.machine and candidate.machine == champion.machine:
        ratio = Difference(
            candidate.latency_p50 / champion.latency_p50,
            # As far apart as the middle half of each was from its slowest: other work may have slowed either.
            candidate.latency_p50 / champion.latency_p95,
            candidate.latency_p95 / champion.latency_p50,
        )
        how = "timed at different times on machines of the same kind"
    else:
        known = [evaluated.machine or "an unknown machine" for evaluated in (candidate, champion)]
        reason = f"it was timed on {known[0]}, and the champion on {known[1]}"
        return RuleResult(rule, RuleOutcome.UNDECIDED, reason, threshold=most, bound=AT_MOST, unit=TIMES)
    return RuleResult(
        rule,
        by_interval(ratio.low, ratio.high, most, AT_MOST),
        f"it takes {ratio.value:.2f} times as long as the champion ({ratio.low:.2f} to {ratio.high:.2f}; {how}; "
        f"at most {most:g} times is allowed)",
        measured=ratio.value,
        low=ratio.low,
        high=ratio.high,
        threshold=most,
        bound=AT_MOST,
        unit=TIMES,
    )


COMPARISONS: tuple[Callable[[Pair, Settings], RuleResult], ...] = (
    _accuracy_drop,
    _not_worse,
    _recall_drop,
    _robustness_drop,
    _calibration_rise,
    _latency_rise,
)
SIGNIFICANCE = FALSE_REFUSALS / len(COMPARISONS)
"""Of each comparison (Bonferroni): so all of them together keep to FALSE_REFUSALS, however they hang together."""


def _at_least(rule: str, reason: str, difference: Difference, threshold: float) -> RuleResult:
    return RuleResult(
        rule,
        by_interval(difference.low, difference.high, threshold),
        reason,
        measured=difference.value,
        low=difference.low,
        high=difference.high,
        threshold=threshold,
        unit=POINTS,
    )


def _none_worse(
    rule: str, words: tuple[str, str], drop: float, groups: Mapping[str, tuple[Answers, Answers]]
) -> RuleResult:
    """No group of images is surely answered worse by more than `drop`, with Holm's adjustment for so many groups.

    Models that differ by their seed alone differ in single classes by points: of 20 pairs of such on CIFAR-10 (72 %,
    10,000 test images) a margin of 0 refuses 12, and one of 5 points none. The figures are of the group that speaks
    most against the candidate; its interval is Bonferroni's, which for this one group decides as Holm does.
    """
    names = list(groups)
    chances = adjusted_for_many([chance_of_drop(*groups[name], drop) for name in names])
    worse = [name for name, chance in zip(names, chances, strict=True) if chance < SIGNIFICANCE]
    worst = names[int(np.argmin(chances))]
    candidate, champion = groups[worst]
    difference = score_difference(candidate, champion, SIGNIFICANCE / len(names))
    noun, verb = words
    told = shortened(worse) if worse else f"no {noun}"
    verb = f"{'are' if len(worse) > 1 else 'is'} surely {verb} worse than by the champion by more than {drop:.1%}"
    nearest = "most of all" if worse else "nearest to it"
    return _at_least(
        rule,
        f"{told} {verb} ({nearest} {worst}, {_share(candidate)} against {_share(champion)}, "
        f"{difference.low:+.1%} to {difference.high:+.1%})",
        difference,
        -drop,
    )


def _share(right: npt.NDArray[np.bool_]) -> str:
    return f"{right.mean():.1%}"
