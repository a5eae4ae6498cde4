import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from image_classifier.backbones import SHIPPED
from image_classifier.evaluation.example_images import Picture, Pictures
from image_classifier.gate import report
from image_classifier.gate.report import ReportedVersion, ReportHeader, render_report
from image_classifier.gate.rules import RuleOutcome, RuleResult, Thresholds
from image_classifier.gate.verdict import NO_CHAMPION, Opponent, judge
from image_classifier.package.package import encode_png
from image_classifier.settings import Settings, pick
from tests.conftest import color_images
from tests.evaluation.test_evaluation import evaluation_of
from tests.gate.test_verdict import evaluation_with

THRESHOLDS = pick(Settings(), Thresholds)
PNG = encode_png(color_images()[0])
PICTURE = Picture(base64.b64encode(PNG).decode(), ("cat predicted as dog", "3 images"), "cat/1.png")
PICTURES = Pictures((PICTURE,), (PICTURE,), (PICTURE,), (PICTURE,))
HEADER = ReportHeader("image-classifier", "2026-01-01 12:00 UTC", "somebody", "")
PROVENANCE = {
    "run_id": "r1",
    "data_digest": "d1",
    "source_revision": "abc",
    "parameters": {"seed": 1, "budget": 20.0, "width": 1.0},
}


class Page(HTMLParser):
    """The text of a page, its tags, and the addresses in it."""

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


@pytest.fixture
def without_plots(monkeypatch):
    """Four plots take ten times as long as the rest of a page."""
    monkeypatch.setattr(
        report, "_plots", lambda *_: dict.fromkeys(("confusion", "reliability", "coverage"), "data:image/svg+xml,")
    )


def judged(candidate, champion=None):
    return judge(candidate, Opponent("version 1, the champion", champion) if champion else None, THRESHOLDS)


def page_of(
    candidate,
    champion=None,
    *,
    provenance=PROVENANCE,
    champion_provenance=PROVENANCE,
    pictures=PICTURES,
    curve=PNG,
    header=HEADER,
):
    return Page(
        render_report(
            judged(candidate, champion),
            ReportedVersion("version 2", candidate, provenance),
            ReportedVersion("version 1", champion, champion_provenance) if champion else None,
            header,
            pictures=pictures,
            learning_curve=curve,
        )
    )


@pytest.mark.parametrize("errors", [range(50), range(200)], ids=["accepted", "refused"])
def test_the_page_loads_no_external_resource(errors):
    page = page_of(evaluation_with(errors), evaluation_with(range(50)))
    assert page.references
    assert all(reference.startswith("data:image/") for reference in page.references)
    assert not page.tags & {"script", "link", "iframe", "object", "embed"}


@pytest.mark.parametrize(
    ("errors", "decision", "sentence"),
    [
        (range(40), "accepted", "It may replace version 1."),
        (range(100, 158), "held", "Not enough evidence to replace version 1, which stays."),
        (range(200), "refused", "4 rules failed. The champion stays, version 1."),
    ],
)
def test_the_verdict_comes_first_with_its_deciding_rules(without_plots, errors, decision, sentence):
    candidate, champion = evaluation_with(errors), evaluation_with(range(50))
    verdict, text = judged(candidate, champion), page_of(candidate, champion).text
    order = [f"is the champion. {decision}", sentence, "Why", verdict.deciding[0].reason, "Where it is wrong", "Rules"]
    assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)


def test_the_class_of_the_verdicts_box_is_its_decision(without_plots):
    candidate, champion = evaluation_with(range(100, 158)), evaluation_with(range(50))
    page = render_report(
        judged(candidate, champion),
        ReportedVersion("version 2", candidate, {}),
        ReportedVersion("version 1", champion, {}),
        HEADER,
        pictures=None,
        learning_curve=None,
    )
    assert '<div class="verdict held">' in page
    assert "details" in page[page.index("<h2>Rules") :]


def test_every_rule_is_listed_with_measured_value_interval_threshold_and_outcome(without_plots):
    candidate, champion = evaluation_with(range(100, 158)), evaluation_with(range(50))
    page = page_of(candidate, champion)
    for result in judged(candidate, champion).results:
        assert result.rule in page.text
        assert result.reason in page.text
    assert "94.2 % 92.6 to 95.5 % ≥ 50.0 %" in page.text
    assert "-0.80 points" in page.text
    assert "? held" in page.text
    assert page.text.index("? held") < page.text.index("other rules passed") < page.text.index("✓ pass")


def test_automatic_parameters_are_shown_as_what_was_chosen():
    package = SimpleNamespace(
        image_size=64,
        provenance={"parameters": {"image_size": 0, "precision": "auto"}, "precision": {"chosen": "int8"}},
    )
    version = ReportedVersion.of("version 1", None, package)
    assert version.provenance["parameters"] == {"image_size": 64, "precision": "int8"}
    assert ReportedVersion.of("version 1", None, None).provenance == {}


def test_only_parameters_that_differ_from_the_champions_are_listed(without_plots):
    old = {**PROVENANCE, "parameters": {"seed": 1, "budget": 60.0, "depth": 3}}
    text = page_of(evaluation_with(range(60)), evaluation_with(range(50)), champion_provenance=old).text
    differing = text[text.index("Parameters and sources that differ") : text.index("Robustness, calibration")]
    assert "budget 20 60" in differing
    assert "width 1 –" in differing
    assert "depth – 3" in differing
    assert "seed" not in differing


def test_the_page_says_if_the_champions_files_are_missing(without_plots):
    text = page_of(evaluation_with(range(60)), evaluation_with(range(50)), champion_provenance={}).text
    assert "The champion's parameters and sources are unknown, as its files are missing." in text


def test_a_champion_that_cannot_be_compared_is_named():
    candidate = evaluation_with(range(50))
    comparable = RuleResult("champion", RuleOutcome.NOT_MEASURED, "version 1, the champion, has other classes")
    verdict = judge(candidate, None, THRESHOLDS, comparable=comparable)
    versions = (ReportedVersion("version 2", candidate, PROVENANCE), ReportedVersion("version 1", None, PROVENANCE))
    page = Page(render_report(verdict, *versions, HEADER, pictures=None, learning_curve=None))
    assert "version 1 is the champion" in page.text
    assert "has other classes: not measured" in page.text


def test_names_are_escaped():
    markup = "<script>alert(1)</script>"
    evaluation = evaluation_of([0, 1, 1], [0, 1, 0], classes=(markup, "dog", "emu"))
    pictures = replace(PICTURES, mistakes=(Picture(PICTURE.png, (markup,), markup),))
    page = page_of(evaluation, evaluation, pictures=pictures, provenance={**PROVENANCE, "data_source": markup})
    assert "script" not in page.tags
    assert markup in page.text


def test_names_are_not_parsed_as_formulas():
    evaluation = evaluation_of([0, 1, 1], [0, 1, 0], classes=("$\\frac{$", "dog", "emu"))
    assert "$\\frac{$" in page_of(evaluation, evaluation).text


def test_the_report_says_which_class_a_number_in_the_confusion_matrix_is(without_plots):
    evaluation = evaluation_of([0, 1, 1], [0, 1, 0], classes=("日本語", "dog", "<b>🎉</b>"))
    assert "class 0: 日本語; class 2: <b>🎉</b>" in page_of(evaluation).text
    assert "class 0" not in page_of(evaluation_of([0, 1, 1], [0, 1, 0])).text


def test_what_an_old_evaluation_lacks_is_omitted():
    old = replace(
        evaluation_of([0, 1, 1], [0, 1, 0]),
        **dict.fromkeys(
            ("robustness", "duplicates", "label_errors", "training_data", "abstention", "latency_p95_interval")
        ),
        slices=(),
        model_bytes=0,
    )
    text = page_of(old, old, provenance={}, champion_provenance={}, pictures=None, curve=None).text
    assert "robustness was not measured when this version was evaluated" in text
    assert "Probable label errors" not in text
    assert "Most frequent confusions: dog predicted as cat (1)." in text


def test_problems_of_the_training_data_are_shown_with_pictures(without_plots):
    evaluation = evaluation_of([0, 1, 1], [0, 1, 0])
    captions = [replace(PICTURE, lines=(f"caption {kind}",)) for kind in ("suspect", "pair", "outlier")]
    pictures = replace(
        PICTURES, training_suspects=(captions[0],), training_duplicates=(captions[1],), outliers=(captions[2],)
    )
    text = page_of(evaluation, pictures=pictures).text
    assert "10 of the 12 training images were checked" in text
    assert "The labels of 1 of 8 images are probably wrong; we expect that 80 % of them are." in text
    assert "3 of 10 images (30.0 %) show the same photo as another one" in text
    assert "In 1 of these cases the other one has another class" in text
    assert "Photos of the validation split that were also trained on: 1" in text
    assert "1 of 10 images are blank or unlike all others" in text
    assert all(f"caption {kind}" in text for kind in ("suspect", "pair", "outlier"))
    assert "3 of 10 images" in page_of(evaluation, pictures=None).text


def test_clean_training_data_is_said_and_unchecked_data_is_omitted(without_plots):
    evaluation = evaluation_of([0, 1, 1], [0, 1, 0])
    found = evaluation.training_data
    none = replace(found.label_errors, count=0, suspects=(), expected_precision=None)
    clean = replace(found, total=10, duplicates=0, label_errors=none, outlier_count=0)
    text = page_of(replace(evaluation, training_data=clean)).text
    assert "All 10 training images were checked" in text
    assert "No probable label errors, duplicates or outliers were found." in text
    assert "Training data" not in page_of(replace(evaluation, training_data=None)).text


def test_both_numeric_precisions_are_compared_if_known(without_plots):
    kinds = {
        "float32": {"validation_accuracy": 0.81, "milliseconds": 0.33, "bytes": 2**21},
        "int8": {"validation_accuracy": 0.80, "milliseconds": 0.2, "bytes": 2**19},
    }
    measured = {"accuracy_loss": [0.01, 0.004, 0.016], "speed_up": [1.65, 1.5, 1.8]}
    provenance = {**PROVENANCE, "precision": {"chosen": "int8", **kinds, **measured}}
    text = page_of(evaluation_with(range(50)), provenance=provenance).text
    assert "int8 loses +1.00 points (+0.40 to +1.60 points) of accuracy and is 1.65 × (1.50 to 1.80 ×) as fast" in text
    assert "Numeric precision: int8 was chosen" in text
    assert "float32 81.0 % 0.33 ms 2.00 MiB" in text
    assert "int8 80.0 % 0.2 ms 0.50 MiB" in text
    assert "Numeric precision" not in page_of(evaluation_with(range(50))).text


def test_of_a_thousand_classes_all_but_the_worst_are_collapsed(without_plots):
    names = tuple(f"class {number}" for number in range(1000))
    labels = list(range(1000))
    page = page_of(evaluation_of(labels, [1, *labels[1:]], classes=names))
    assert "980 more classes" in page.text
    assert page.text.index("class 0 1 0.0 %") < page.text.index("980 more classes")


def test_provenance_and_the_address_of_the_records_are_listed(without_plots):
    header = replace(HEADER, records="http://mlflow/#/experiments/1/runs/r1")
    page = page_of(evaluation_with(range(50)), header=header)
    assert re.search(r"Run r1 .*Data digest d1 .*Source revision abc .*Seed 1", page.text)
    assert "http://mlflow/#/experiments/1/runs/r1" in page.references
    assert NO_CHAMPION.reason in page.text


def test_the_backbone_of_a_model_is_named_with_its_license_and_biases(without_plots):
    backbone = SHIPPED["efficientnet-lite0"].provenance
    page = page_of(evaluation_with(range(50)), provenance={**PROVENANCE, "backbone": backbone})
    assert "Backbone: efficientnet-lite0" in page.text
    assert f"pretrained on ImageNet-1k (weights: {backbone['origin']}, license: Apache-2.0)" in page.text
    assert "It inherits that data's biases: photos from the web" in page.text
    assert "The model classifies features of this network" in page.text
    parameters = {**PROVENANCE["parameters"], "fine_tuned": True}
    tuned = page_of(evaluation_with(range(50)), provenance={"parameters": parameters, "backbone": backbone})
    assert "The model is a fine-tuned copy of this network" in tuned.text
    own = {"name": "own", "origin": "own.onnx", "digest": "d"}
    page_of_own = page_of(evaluation_with(range(50)), provenance={**PROVENANCE, "backbone": own})
    assert "pretrained on data that its file does not name (weights: own.onnx, license: unknown)" in page_of_own.text
    assert "photos from the web" not in page_of_own.text
    assert "Backbone" not in page_of(evaluation_with(range(50))).text
