import io
import sys

from image_classifier.progress import Progress


def test_plain_lines_say_what_is_done_and_how_long_it_will_take():
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


def test_a_last_piece_that_took_too_long_leaves_no_negative_time():
    now = [0.0]
    stream = io.StringIO()
    with Progress("training", 10, "s", stream=stream, clock=lambda: now[0]) as progress:
        now[0] = 12
        progress.advance(12)
    assert stream.getvalue() == "training: 12 of 10 s, 0 s left\n"


def test_an_unknown_total_is_counted_without_a_time_left():
    now = [0.0]
    stream = io.StringIO()
    with Progress("fetching", None, "bytes", stream=stream, clock=lambda: now[0]) as progress:
        now[0] = 11
        progress.advance(12_345, "slow")
    assert stream.getvalue() == "fetching: 12,345 bytes, slow\n"


def test_a_terminal_gets_a_bar():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with Progress("decoding", 10, "images", stream=stream) as progress:
        progress.advance(10)
    assert "decoding" in stream.getvalue()
    assert "\r" in stream.getvalue()


def test_a_bar_makes_room_for_a_line(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Progress("tuning", 10, "s") as progress:
        progress.advance(1)
        with progress.aside():
            print("a line", file=sys.stderr)
    *_, before, after = capsys.readouterr().err.partition("a line")[0].rpartition("\r")
    assert (before, after) == ("\r", "")
