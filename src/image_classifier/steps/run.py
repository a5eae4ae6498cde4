"""The command `run`: all steps of the chain on this machine, then a server and one request to it."""

from image_classifier.settings import Settings
from image_classifier.steps.evaluate import evaluate
from image_classifier.steps.gate import gate
from image_classifier.steps.model_access import fetch_model
from image_classifier.steps.promote import promote
from image_classifier.steps.register import register
from image_classifier.steps.serve import request_golden_image, server_process
from image_classifier.steps.train import train
from image_classifier.text import Report


def run(settings: Settings, report: Report, *, keep_serving: bool) -> None:
    """Train, evaluate, register, judge and promote; then serve the champion and send it one image.

    Serves until interrupted if `keep_serving`. Without a champion, after a first model was refused, nothing is served.
    """
    for step in (train, evaluate, register, gate):
        step(settings, report)
    if promote(settings, report) is None:
        return
    package = fetch_model(settings, report)
    with server_process(settings, package) as server:
        try:
            request_golden_image(settings, package, server, report)
            if keep_serving:
                report(f"serving at http://{settings.host}:{settings.port}/ until Ctrl-C")
                server.wait()
        except KeyboardInterrupt:
            report("stopping")
