import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from image_classifier.evaluation.example_images import Picture, Pictures
from image_classifier.gate.report import Circumstances, Side, render_report
from image_classifier.gate.rule_result import RuleOutcome, RuleResult
from image_classifier.gate.verdict import NO_CHAMPION, judge
from image_classifier.package.package import encode_png
from image_classifier.settings import Settings
from tests.conftest import colour_images
from tests.evaluation.test_evaluation import evaluation_of
from tests.gate.test_verdict import evaluation_with

PNG = encode_png(colour_images()[0])
PICTURE = Picture(base64.b64encode(PNG).decode(), ("cat taken for dog", "3 ×"), "cat/1.png")
PICTURES = Pictures((PICTURE,), (PICTURE,), (PICTURE,), (PICTURE,))
WHERE = Circumstances("image-classifier", "2026-01-01 12:00 UTC", "somebody", "")
MADE = {
    "run_id": "r1",
    "data_digest": "d1",
    "source_revision": "abc",
    "parameters": {"seed": 1, "budget": 20.0, "width": 1.0},
}


class Page(HTMLParser):
    """The text of a page, its tags, and what it refers to."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.references, self.text = set(), [], ""
        self.feed(page)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.references += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data):
        self.text += data + " "


def page_of(candidate, champion=None, *, made=MADE, theirs=MADE, pictures=PICTURES, curve=PNG, where=WHERE):
    verdict = judge(candidate, champion, Settings())
    side = Side("version 1", champion, theirs) if champion else None
    return Page(
        render_report(
            verdict, Side("version 2", candidate, made), side, where, pictures=pictures, learning_curve=curve
        )
    )


@pytest.mark.parametrize("errors", [range(50), range(200)], ids=["accepted", "refused"])
def test_the_page_needs_nothing_but_itself(errors):
    page = page_of(evaluation_with(errors), evaluation_with(range(50)))
    assert page.references
    assert all(reference.startswith("data:image/") for reference in page.references)
    assert not page.tags & {"script", "link", "iframe", "object", "embed"}


def test_a_refusal_is_told_first_and_why():
    page = page_of(evaluation_with(range(200)), evaluation_with(range(50)))
    assert page.text.index("refused") < page.text.index("loses 150 that the champion gets right")
    assert page.text.index("loses 150") < page.text.index("Why: the rules")


def test_every_rule_is_there_with_measured_interval_threshold_and_outcome():
    candidate, champion = evaluation_with(range(60)), evaluation_with(range(50))
    page = page_of(candidate, champion)
    for finding in judge(candidate, champion, Settings()).findings:
        assert finding.rule in page.text
        assert finding.reason in page.text
    assert "94.0 % 92.4 to 95.3 % ≥ 50.0 %" in page.text
    assert "-1.00 points" in page.text
    assert "? open" in page.text


def test_what_changed_since_the_champion_is_what_differs():
    theirs = {**MADE, "parameters": {"seed": 1, "budget": 60.0, "depth": 3}}
    text = page_of(evaluation_with(range(60)), evaluation_with(range(50)), theirs=theirs).text
    differing = text[text.index("Parameters and origins that differ") : text.index("Where it is wrong")]
    assert "budget 20 60" in differing
    assert "width 1 –" in differing
    assert "depth – 3" in differing
    assert "seed" not in differing


def test_a_champion_whose_files_are_gone_is_said_to_be():
    text = page_of(evaluation_with(range(60)), evaluation_with(range(50)), theirs={}).text
    assert "What the champion was made with is not known any more: its files are gone." in text


def test_a_champion_that_cannot_be_compared_is_named():
    candidate = evaluation_with(range(50))
    why = RuleResult("champion", RuleOutcome.UNDECIDED, "version 1, the champion, knows other classes")
    verdict = judge(candidate, None, Settings(), alone=why)
    sides = Side("version 2", candidate, MADE), Side("version 1", None, MADE)
    page = Page(render_report(verdict, *sides, WHERE, pictures=None, learning_curve=None))
    assert "version 1 is the champion" in page.text
    assert "knows other classes, not enough evidence" in page.text


def test_names_cannot_be_markup():
    nasty = "<script>alert(1)</script>"
    evaluation = evaluation_of([0, 1, 1], [0, 1, 0], classes=(nasty, "dog", "emu"))
    pictures = replace(PICTURES, mistakes=(Picture(PICTURE.png, (nasty,), nasty),))
    page = page_of(evaluation, evaluation, pictures=pictures, made={**MADE, "data_source": nasty})
    assert "script" not in page.tags
    assert nasty in page.text


def test_names_cannot_be_mathematics_either():
    evaluation = evaluation_of([0, 1, 1], [0, 1, 0], classes=("$\\frac{$", "dog", "emu"))
    assert "$\\frac{$" in page_of(evaluation, evaluation).text


def test_what_an_evaluation_of_before_lacks_is_left_out():
    old = replace(
        evaluation_of([0, 1, 1], [0, 1, 0]),
        **dict.fromkeys(("robustness", "duplicates", "label_errors", "abstention", "latency_p95_interval")),
        slices=(),
        model_bytes=0,
    )
    text = page_of(old, old, made={}, theirs={}, pictures=None, curve=None).text
    assert "robustness was not measured when this version was evaluated" in text
    assert "Labels that are probably wrong" not in text
    assert "Most often confused: dog taken for cat (1)." in text


def test_both_precisions_are_shown_side_by_side_where_they_are_known():
    kinds = {
        "float32": {"validation_accuracy": 0.81, "milliseconds": 0.33, "bytes": 2**21},
        "int8": {"validation_accuracy": 0.80, "milliseconds": 0.2, "bytes": 2**19},
    }
    made = {**MADE, "precision": {"chosen": "int8", **kinds}}
    text = page_of(evaluation_with(range(50)), made=made).text
    assert "Numeric precision (int8 was chosen)" in text
    assert "float32 81.0 % 0.33 ms 2.00 MiB" in text
    assert "int8 80.0 % 0.2 ms 0.50 MiB" in text
    assert "Numeric precision" not in page_of(evaluation_with(range(50))).text


def test_a_thousand_classes_are_folded_away_but_for_the_worst():
    names = tuple(f"class {number}" for number in range(1000))
    labels = list(range(1000))
    page = page_of(evaluation_of(labels, [1, *labels[1:]], classes=names))
    assert "980 more classes" in page.text
    assert page.text.index("class 0 1 0.0 %") < page.text.index("980 more classes")


def test_where_it_comes_from_and_where_the_records_are_is_told():
    where = replace(WHERE, records="http://mlflow/#/experiments/1/runs/r1")
    page = page_of(evaluation_with(range(50)), where=where)
    assert re.search(r"Run r1 .*Data digest d1 .*Source revision abc .*Seed 1", page.text)
    assert "http://mlflow/#/experiments/1/runs/r1" in page.references
    assert NO_CHAMPION.reason in page.text
