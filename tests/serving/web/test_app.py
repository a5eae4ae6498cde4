"""What the application answers, asked by Flask's client."""

import io
import json
import re
import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from image_classifier.errors import PackageError
from image_classifier.package.identity import Identity
from image_classifier.package.package import Package
from image_classifier.serving.http.connection import SlowSenderError
from image_classifier.serving.http.response_headers import SECURITY_HEADERS
from image_classifier.serving.web.app import create_app
from image_classifier.settings import Settings
from tests.conftest import COLOURS, write_colour_package

SETTINGS = Settings(max_upload=100_000, max_pixels=10_000, image="registry.example.org/server@sha256:12")


@pytest.fixture
def app(model):
    return create_app(SETTINGS, model, Identity.read(model.package, "colours"))


@pytest.fixture
def client(app):
    return app.test_client()


def noise_png(side: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content_type",
    ["image/png", "image/jpeg", "application/octet-stream", "application/x-www-form-urlencoded", None],
)
def test_the_bytes_of_an_image_are_answered_whatever_they_are_called(client, pngs, content_type):
    answer = client.post("/predict", data=pngs["green"], content_type=content_type)
    assert answer.status_code == 200
    [prediction] = answer.json["predictions"]
    assert prediction["label"] == "green"
    assert prediction["probability"] > 0.99
    assert prediction["top"][0] == {"label": "green", "probability": prediction["probability"]}
    assert [entry["label"] for entry in prediction["top"]] == ["green", "red", "blue", "white"]
    assert prediction["file"] is None


def test_the_probabilities_are_those_of_the_model(client, model, pngs):
    answer = client.post("/predict", data=pngs["white"])
    told = {entry["label"]: entry["probability"] for entry in answer.json["predictions"][0]["top"]}
    expected = model.package.golden[list(COLOURS).index("white")].probabilities
    assert [told[name] for name in model.classes] == pytest.approx(expected, abs=1e-5)


def test_one_or_many_files_of_a_form_have_the_same_shape_and_keep_their_order(client, pngs):
    form = {"a": (io.BytesIO(pngs["blue"]), "sea.png"), "b": (io.BytesIO(pngs["red"]), "fire.png")}
    answer = client.post("/predict", data=form)
    assert [(p["file"], p["label"]) for p in answer.json["predictions"]] == [
        ("sea.png", "blue"),
        ("fire.png", "red"),
    ]
    one = client.post("/predict", data={"image": (io.BytesIO(pngs["red"]), "fire.png")})
    assert one.json.keys() == answer.json.keys() == {"predictions", "model", "milliseconds", "request_id"}
    assert one.json["predictions"] == answer.json["predictions"][1:]


@pytest.mark.parametrize(("asked", "listed"), [("1", 1), ("3", 3), ("400", 4)])
def test_top_says_how_many_classes_are_listed(client, pngs, asked, listed):
    answer = client.post(f"/predict?top={asked}", data=pngs["red"])
    assert len(answer.json["predictions"][0]["top"]) == listed


REFUSALS = [
    # method, path, body, content type, status, code, words
    ("POST", "/predict", b"", "image/png", 400, "invalid_image", "empty"),
    ("POST", "/predict", b"no image at all", "image/png", 400, "invalid_image", "accepted formats"),
    ("POST", "/predict", noise_png(16)[:400], "image/png", 400, "invalid_image", "cannot be decoded"),
    ("POST", "/predict", noise_png(110), "image/png", 413, "image_too_large", "limit of 10,000"),
    ("POST", "/predict", b"x" * 100_001, "image/png", 413, "body_too_large", "100,001 bytes"),
    ("POST", "/predict", b"{}", "application/json", 415, "unsupported_media_type", "application/json"),
    ("POST", "/predict", b"--b--\r\n", "multipart/form-data; boundary=b", 400, "no_image", "no file"),
    ("POST", "/predict", b"x" * 100_001, "multipart/form-data; boundary=b", 413, "body_too_large", "limit"),
    ("POST", "/predict?top=0", b"", None, 400, "invalid_parameter", "top is '0'"),
    ("POST", "/predict?top=-1", b"", None, 400, "invalid_parameter", "whole number"),
    ("POST", "/predict?top=five", b"", None, 400, "invalid_parameter", "five"),
    ("GET", "/predict", None, None, 405, "method_not_allowed", "/predict takes POST, not GET"),
    ("DELETE", "/", None, None, 405, "method_not_allowed", "/ takes GET, not DELETE"),
    ("GET", "/nothing", None, None, 404, "not_found", "nothing at /nothing"),
    ("GET", "/examples/4.png", None, None, 404, "not_found", "4 examples"),
    ("GET", "/static/../server.py", None, None, 404, "not_found", "nothing at"),
]


@pytest.mark.parametrize(
    ("method", "path", "body", "content_type", "status", "code", "words"),
    REFUSALS,
    ids=[f"{row[0]} {row[1]} {row[5]}" for row in REFUSALS],
)
def test_a_refusal_has_one_shape_and_says_why(client, method, path, body, content_type, status, code, words):
    answer = client.open(path, method=method, data=body, content_type=content_type)
    assert answer.status_code == status
    assert answer.content_type == "application/json"
    assert answer.json.keys() == {"error", "code", "status"}
    assert (answer.json["code"], answer.json["status"]) == (code, status)
    assert words in answer.json["error"]
    assert answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Request-Id"]


def test_a_bad_file_among_several_is_named(client, pngs):
    form = {"a": (io.BytesIO(pngs["blue"]), "sea.png"), "b": (io.BytesIO(b"text"), "notes.txt")}
    answer = client.post("/predict", data=form)
    assert answer.status_code == 400
    assert answer.json["error"].startswith("notes.txt: ")


class Cut:
    """A body whose sender stops halfway."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def read(self, size: int = -1) -> bytes:
        raise self.error


@pytest.mark.parametrize("content_type", ["image/png", "multipart/form-data; boundary=b"])
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(SlowSenderError(), 408, "request_too_slow"), (OSError("gone"), 400, "incomplete_body")],
)
def test_a_body_that_does_not_arrive_is_the_senders_fault(client, content_type, error, status, code):
    body = {"wsgi.input": Cut(error), "CONTENT_LENGTH": "500", "wsgi.input_terminated": True}
    answer = client.post("/predict", content_type=content_type, environ_overrides=body)
    assert (answer.status_code, answer.json["code"]) == (status, code)


def test_a_body_shorter_than_stated_is_refused_with_both_lengths(client):
    body = {"wsgi.input": io.BytesIO(b"ab"), "CONTENT_LENGTH": "5"}
    answer = client.post("/predict", content_type="image/png", environ_overrides=body)
    assert answer.status_code == 400
    assert "ended after 2 of 5 bytes" in answer.json["error"]


def test_a_failure_of_ours_is_logged_under_the_request_id_and_tells_nothing(app, caplog):
    app.add_url_rule("/broken", view_func=lambda: 1 / 0)
    answer = app.test_client().get("/broken", headers={"X-Request-Id": "abc-1"})
    assert answer.status_code == 500
    assert answer.json["code"] == "internal_error"
    assert "abc-1" in answer.json["error"]
    assert "division" not in answer.text
    assert "ZeroDivisionError" in caplog.text
    assert "request abc-1 failed: GET /broken" in caplog.text


def test_every_answer_says_who_gave_it(client, model, pngs):
    for answer in (client.post("/predict", data=pngs["red"]), client.get("/nothing"), client.get("/")):
        assert answer.headers["X-Model-Name"] == "colours"
        assert answer.headers["X-Model-Version"] == "unregistered"
        assert answer.headers["X-Model-Digest"] == model.package.digest
        assert answer.headers["X-Source-Revision"] == "abc123"
        assert answer.headers["X-Data-Digest"] == "d" * 64
        assert answer.headers["X-Server-Image"] == SETTINGS.image
        assert dict(answer.headers).items() >= SECURITY_HEADERS.items()
        assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]


@pytest.mark.parametrize("given", ["7f3a", "a.b:c/d+e=@_-", "x" * 128])
def test_a_sane_request_id_is_kept(client, pngs, given):
    answer = client.post("/predict", data=pngs["red"], headers={"X-Request-Id": given})
    assert answer.headers["X-Request-Id"] == answer.json["request_id"] == given


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, 'a"b', "ä"])
def test_another_request_id_is_replaced(client, given):
    made = client.get("/healthz", headers={"X-Request-Id": given}).headers["X-Request-Id"]
    assert re.fullmatch("[0-9a-f]{32}", made)


def test_the_version_is_what_the_registry_laid_beside_the_package(tmp_path):
    write_colour_package(tmp_path / "package")
    package = Package.read(tmp_path / "package")
    about = {"name": "Grün\n", "version": 7, "uri": "models:/x/7"}
    (tmp_path / "package/version.json").write_text(json.dumps(about))
    identity = Identity.read(package, "colours")
    assert (identity.name, identity.version) == ("Grün\n", "7")
    assert identity.headers()["X-Model-Name"] == "Gr?n?"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7"])
def test_a_damaged_version_file_is_refused(tmp_path, content):
    write_colour_package(tmp_path / "package")
    (tmp_path / "package/version.json").write_bytes(content)
    with pytest.raises(PackageError, match=r"version\.json"):
        Identity.read(Package.read(tmp_path / "package"), "colours")


ADDRESS = "https://mlflow.example.org/#/models/flowers/7?a=b"


@pytest.mark.parametrize("report", [ADDRESS, "http://127.0.0.1:5000/report.html", "", None])
def test_the_page_links_to_the_report_that_the_registry_names(model, tmp_path, report):
    write_colour_package(tmp_path / "package")
    package = Package.read(tmp_path / "package")
    (tmp_path / "package/version.json").write_text(json.dumps({"version": 7, "report": report}))
    identity = Identity.read(package, "colours")
    assert "report" not in identity.to_dict()
    client = create_app(SETTINGS, type(model)(package, None), identity).test_client()
    links = re.findall(r'<a href="([^"]+)" rel="noopener noreferrer">how it was judged', client.get("/").text)
    assert links == ([report] if report else [])


@pytest.mark.parametrize(
    "report",
    [
        "javascript:alert(1)",
        "JavaScript:alert(1)//http://a",
        "data:text/html,<b>",
        "file:///etc/passwd",
        "mlflow-artifacts:/1/report.html",
        "//evil.example.org/",
        "report.html",
        "https://",
        "https:///path",
        "http://[1",
        "https://anna:secret@example.org/",
        "https://a.example.org/ onclick=alert(1)",
        "https://a.example.org/\nX: y",
        " https://a.example.org/",
        "https://a.example.org/\u202e",
        7,
        ["https://a.example.org/"],
        {"url": "https://a.example.org/"},
        True,
    ],
)
def test_no_other_report_than_a_web_page_is_taken(tmp_path, report):
    write_colour_package(tmp_path / "package")
    (tmp_path / "package/version.json").write_text(json.dumps({"version": 7, "report": report}))
    with pytest.raises(PackageError, match="must be an http or https address"):
        Identity.read(Package.read(tmp_path / "package"), "colours")


def test_quotes_in_the_reports_address_stay_in_the_link(model, tmp_path):
    write_colour_package(tmp_path / "package")
    package = Package.read(tmp_path / "package")
    about = {"version": 7, "report": 'https://a.example.org/"><script>alert(1)</script>'}
    (tmp_path / "package/version.json").write_text(json.dumps(about))
    app = create_app(SETTINGS, type(model)(package, None), Identity.read(package, "colours"))
    assert "<script>alert" not in app.test_client().get("/").text


def test_the_page_says_what_the_model_is_not_for(model, tmp_path):
    write_colour_package(tmp_path / "package", validation_accuracy="0.875")
    package = Package.read(tmp_path / "package")
    app = create_app(SETTINGS, type(model)(package, None), Identity.read(package, "colours"))
    text = " ".join(app.test_client().get("/").text.split())
    for words in (
        "Anything but its 4 classes",
        "scaled to 16 × 16 pixels",
        "Of those like them 87.5 % were right",
        "Decisions about people",
    ):
        assert words in text


def test_a_server_that_drains_is_live_and_answers_but_is_not_ready(model, pngs):
    draining = threading.Event()
    app = create_app(SETTINGS, model, Identity.read(model.package, "colours"), draining=draining)
    client = app.test_client()
    assert client.get("/readyz").json == {"status": "ready"}
    draining.set()
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json["code"]) == (503, "draining")
    assert answer.headers["Retry-After"] == "1"
    assert client.get("/healthz").json == {"status": "live"}
    assert client.post("/predict", data=pngs["red"]).status_code == 200


def test_the_page_tells_what_the_model_is_and_loads_nothing_from_elsewhere(client, model):
    page = client.get("/")
    assert page.content_type == "text/html; charset=utf-8"
    for name in (*COLOURS, "unregistered", "dddddddddddd", "abc123"):
        assert name in page.text
    own = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert own
    for address in own:
        assert client.get(f"/{address}").status_code == 200, address
    assert not re.search(r"\son\w+=|style=|<style|<script>", page.text)


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("digits", "digits"),
        ("/home/anna/photos", "photos"),
        ("https://anna:secret@example.org/a/flowers.zip?token=secret", "flowers.zip"),
    ],
)
def test_the_page_names_the_data_but_not_where_it_lay(model, tmp_path, source, shown):
    write_colour_package(tmp_path / "package", data_source=source)
    package = Package.read(tmp_path / "package")
    app = create_app(SETTINGS, type(model)(package, None), Identity.read(package, "colours"))
    text = app.test_client().get("/").text
    assert f"<dd>{shown}</dd>" in text
    assert "anna" not in text
    assert "secret" not in text


def test_what_comes_from_the_package_is_escaped_on_the_page(client, model, tmp_path):
    write_colour_package(tmp_path / "package", data_source="<script>alert(1)<script>")
    package = Package.read(tmp_path / "package")
    app = create_app(SETTINGS, type(model)(package, None), Identity.read(package, "<b>"))
    text = app.test_client().get("/").text
    assert "<script>alert" not in text
    assert "<b>" not in text


def test_the_examples_are_the_golden_images(client, model):
    for number, golden in enumerate(model.package.golden):
        answer = client.get(f"/examples/{number}.png")
        assert (answer.content_type, answer.data) == ("image/png", golden.png)


def test_as_many_form_parts_are_taken_as_the_largest_body_can_hold(model, pngs):
    app = create_app(replace(SETTINGS, max_upload=1000), model, Identity.read(model.package, "colours"))
    form = {f"f{n}": str(n) for n in range(30)}
    answer = app.test_client().post("/predict", data=form, content_type="multipart/form-data")
    assert (answer.status_code, answer.json["code"]) == (413, "body_too_large")
