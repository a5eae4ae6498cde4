import io
import sys

from image_classifier.progress import Progress


def test_plain_lines_have_the_work_done_and_the_time_left():
    now = [0.0]
    stream = io.StringIO()
    with Progress("decoding", 100, "images", stream=stream, clock=lambda: now[0]) as progress:
        for second in (1, 11, 12, 22):
            now[0] = second
            progress.advance(20)
    assert stream.getvalue().splitlines() == [
        "decoding: 40 of 100 images, 16 s left",
        "decoding: 80 of 100 images, 6 s left",
    ]


def test_the_time_left_is_never_negative():
    now = [0.0]
    stream = io.StringIO()
    with Progress("training", 10, "s", stream=stream, clock=lambda: now[0]) as progress:
        now[0] = 12
        progress.advance(12)
    assert stream.getvalue() == "training: 12 of 10 s, 0 s left\n"


def test_without_a_total_there_is_no_time_left():
    now = [0.0]
    stream = io.StringIO()
    with Progress("fetching", None, "bytes", stream=stream, clock=lambda: now[0]) as progress:
        now[0] = 11
        progress.advance(12_345, "slow")
    assert stream.getvalue() == "fetching: 12,345 bytes, slow\n"


def test_a_terminal_shows_a_bar():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with Progress("decoding", 10, "images", stream=stream) as progress:
        progress.advance(10)
    assert "decoding" in stream.getvalue()
    assert "\r" in stream.getvalue()


def test_a_line_can_be_printed_while_a_bar_is_shown(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Progress("tuning", 10, "s") as progress:
        progress.advance(1)
        with progress.aside():
            print("a line", file=sys.stderr)
    *_, before, after = capsys.readouterr().err.partition("a line")[0].rpartition("\r")
    assert (before, after) == ("\r", "")
