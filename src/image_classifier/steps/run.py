"""The command `run`: all steps of the chain on this machine, then a server and one request to it."""

from dataclasses import replace
from enum import IntEnum

from image_classifier.addresses import address_of
from image_classifier.registry import Version
from image_classifier.settings import Settings
from image_classifier.steps.evaluate import evaluate
from image_classifier.steps.gate import gate
from image_classifier.steps.model_access import actor, fetch_version, open_registry
from image_classifier.steps.promote import promote_if_accepted
from image_classifier.steps.register import register
from image_classifier.steps.serve import free_port, request_golden_image, server_process
from image_classifier.steps.train import train
from image_classifier.steps.work_folder import WorkFolder
from image_classifier.text import Report, clip, listed

_MAX_REASON_CHARACTERS = 300  # in the last line


class RunOutcome(IntEnum):
    """What serves after a run; the value is the exit status of the command."""

    NEW_SERVES = 0
    OTHER_SERVES = 3
    NOTHING_SERVES = 4


def run(settings: Settings, report: Report, *, keep_serving: bool) -> RunOutcome:
    """Train, evaluate, register, judge and promote; then serve the champion and send it one image.

    Serves until interrupted if `keep_serving`. If the new version is not promoted, the champion serves, unless there is
    none or it has other classes than the data. The last line that is reported says what serves and why.
    """
    settings = replace(settings, port=free_port(settings))
    train(settings, report)
    evaluate(settings, report)
    version = register(settings, report)
    gate(replace(settings, model=str(version.number)), report)
    registry = open_registry(settings, report)
    champion = registry.versions.champion()
    if champion is not None and champion.number == version.number:
        # Completes an interrupted promotion.
        reason = registry.history.judgement(version).reason
        registry.history.promote(version, actor=actor(), reason=reason, image=settings.image)
        why = f"version {version.number} was the champion already{_accuracy(version)}"
    else:
        judgement = promote_if_accepted(settings, registry, version, report)
        why = f"version {version.number} was {judgement.decision}: {clip(judgement.reason, _MAX_REASON_CHARACTERS)}"
        champion = registry.versions.champion()
    if champion is None:
        report(f"{why}; nothing serves")
        return RunOutcome.NOTHING_SERVES
    package = fetch_version(settings, registry, champion)
    if set(package.classes) != set(WorkFolder.of(settings).trained_package().classes):
        report(
            f"{why}; nothing serves, as version {champion.number}, the champion of {registry.name}, has other classes "
            f"({listed(package.classes)})"
        )
        return RunOutcome.NOTHING_SERVES
    is_new = champion.number == version.number
    serves = "it serves" if is_new else f"version {champion.number}{_accuracy(champion)} still serves"
    with server_process(settings, package) as server:
        try:
            request_golden_image(settings, package, server, report)
            if keep_serving:
                report(f"{why}; {serves} at {address_of(settings.host, settings.port)}/ until Ctrl-C")
                server.process.wait()
        except KeyboardInterrupt:
            report("stopping")
    if not keep_serving:  # after the server's own lines
        report(f"{why}; {serves}")
    return RunOutcome.NEW_SERVES if is_new else RunOutcome.OTHER_SERVES


def _accuracy(version: Version) -> str:
    return f" (accuracy {100 * float(version.tags['test_accuracy']):.2f} %)"
