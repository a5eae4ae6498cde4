"""The steps `source` and `test`: fetch the source that the supply chain names, and run its tests."""

from image_classifier.errors import SourceError
from image_classifier.platform import fetch_source, run_tests
from image_classifier.settings import Settings
from image_classifier.steps.results import write_results
from image_classifier.text import Report, without_credentials

_SOURCE_WAIT = 60.0  # seconds; in this time a restarted source server of a cluster is back, even after two restarts


def source(settings: Settings, report: Report) -> None:
    """Fetch and unpack the source that the settings name."""
    if not settings.source_url:
        report("no --source-url is set; using the installed code")
        return
    fetch_source(
        settings.source_url,
        settings.source,
        sub_path=settings.sub_path,
        timeout=settings.fetch_timeout,
        wait=_SOURCE_WAIT,
        report=report,
    )
    report(f"unpacked {without_credentials(settings.source_url)} into {settings.source}")


def test(settings: Settings, report: Report) -> None:
    """Run the tests of the source; raises SourceError if one fails."""
    source(settings, report)
    outcome = run_tests(settings.source)
    if outcome.failed:
        raise SourceError(outcome.summary)
    report(outcome.summary)
    write_results(settings.results, {"verdict": "passed", "reason": outcome.summary})
