"""A WSGI application that is loaded while another one answers already."""

import sys
import threading
from collections.abc import Callable, Iterable

from image_classifier.serving.http.hot_path import Application, Environment, StartResponse

_SWITCH_SECONDS = 0.0005
"""Python's threads take turns of 5 ms, which whoever is answered meanwhile would wait several times."""


class LateApplication:
    """Calls wait until it is loaded."""

    def __init__(self, load: Callable[[], Application]) -> None:
        """`load` is called by a thread of its own, at once, and must not fail: it ends the process where it has to."""
        self._loaded = threading.Event()
        self._application: Application
        threading.Thread(target=self._run, args=(load,), name="late", daemon=True).start()

    def __call__(self, environ: Environment, start_response: StartResponse) -> Iterable[bytes]:
        self._loaded.wait()
        return self._application(environ, start_response)

    def _run(self, load: Callable[[], Application]) -> None:
        before = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_SECONDS)
        try:
            self._application = load()
        finally:
            sys.setswitchinterval(before)
        self._loaded.set()
