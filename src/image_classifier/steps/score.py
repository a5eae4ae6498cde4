"""The command `score`: batch scoring of a whole source."""

from image_classifier.scoring import ScoreRequest, Summary, score_source
from image_classifier.settings import Settings, pick
from image_classifier.steps.model_access import fetch_model
from image_classifier.steps.results import write_results
from image_classifier.text import Report


def score(settings: Settings, source: str | None, report: Report) -> Summary:
    """Score all images of `source`, or of the setting `data`, into parquet files; an interrupted run continues."""
    request = pick(settings, ScoreRequest, data=source or settings.data)
    summary = score_source(request, fetch_model(settings, report), report)
    report(f"{summary.sentence}; the scores are in {settings.to}")
    write_results(
        settings.results,
        {"verdict": "scored", "reason": summary.sentence, "images": str(summary.images), "unread": str(summary.unread)},
    )
    return summary
