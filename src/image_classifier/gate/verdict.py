"""Whether a candidate may take the champion's place: a list of rules, each with what it measured.

A floor refuses a figure that misses it. Against the champion, on the same test images, a candidate is refused
where it is surely worse: the rules together call a model that is no worse so with a probability of at most
FALSE_REFUSALS. A figure whose interval lies on both sides of a threshold is no reason to refuse, and is said to be
"not enough evidence": more test images would tell.
"""

from dataclasses import asdict, dataclass
from typing import Any

from image_classifier.evaluation import Evaluation
from image_classifier.gate.absolute_checks import FLOORS
from image_classifier.gate.champion_checks import COMPARISONS, Pair
from image_classifier.gate.rule_result import RuleOutcome, RuleResult
from image_classifier.gate.statistics import Difference
from image_classifier.settings import Settings

CHAMPION = "champion"
"""The rule that says why there is none to compare with."""
_TELLING = ("min-accuracy", "not-worse-than-champion", CHAMPION)
NO_CHAMPION = RuleResult(CHAMPION, RuleOutcome.PASS, "there is no champion to compare with")


@dataclass(frozen=True)
class Verdict:
    """Accepted when no rule failed."""

    findings: tuple[RuleResult, ...]

    @property
    def accepted(self) -> bool:
        return all(finding.outcome is not RuleOutcome.FAIL for finding in self.findings)

    @property
    def word(self) -> str:
        return "accepted" if self.accepted else "refused"

    @property
    def reason(self) -> str:
        """In words: the rules that failed; or, of an accepted one, what tells most and what is not known."""
        if self.accepted:
            telling = [f for f in self.findings if f.rule in _TELLING or f.outcome is RuleOutcome.UNDECIDED]
        else:
            telling = [f for f in self.findings if f.outcome is RuleOutcome.FAIL]
        return "; ".join(finding.in_words for finding in telling)

    def to_dict(self) -> dict[str, Any]:
        return {"verdict": self.word, "reason": self.reason, "findings": [asdict(f) for f in self.findings]}


def judge(
    candidate: Evaluation,
    champion: Evaluation | None,
    settings: Settings,
    *,
    latency_ratio: Difference | None = None,
    alone: RuleResult = NO_CHAMPION,
) -> Verdict:
    """Judge a candidate by the floors and, on the same test images, against the champion.

    `champion` is None where there is none, or none that can be compared: the floors alone decide then, and
    `alone` says why. Both evaluations must be of the same test images in the same order.
    """
    findings = [floor(candidate, settings) for floor in FLOORS]
    if champion is None:
        findings.append(alone)
    else:
        pair = Pair(candidate, champion, latency_ratio)
        findings.extend(comparison(pair, settings) for comparison in COMPARISONS)
    return Verdict(tuple(findings))
