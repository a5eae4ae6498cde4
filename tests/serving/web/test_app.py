"""Routes of the Flask application: predictions, errors, the page."""

import io
import json
import re
import threading

import numpy as np
import pytest
from PIL import Image

from image_classifier.package.identity import ModelIdentity
from image_classifier.package.package import Package
from tests.conftest import COLORS, write_color_package
from tests.serving.apps import BROWSER, make_client


@pytest.fixture(scope="module")
def client(model):
    return make_client(model, max_upload=100_000, max_pixels=10_000)


@pytest.fixture
def client_of_package(model, tmp_path):
    """A function that returns a client of the color model in a package with other provenance and version.json."""

    def client(version_file=None, name="colors", **provenance):
        write_color_package(tmp_path / "package", **provenance)
        if version_file is not None:
            (tmp_path / "package/version.json").write_text(json.dumps(version_file))
        package = Package.read(tmp_path / "package")
        return make_client(type(model)(package, None), identity=ModelIdentity.read(package, name))

    return client


def noise_png(side: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content_type", ["image/png", "image/jpeg", "application/octet-stream", "application/x-www-form-urlencoded", None]
)
def test_an_image_is_classified_whatever_its_content_type(client, pngs, content_type):
    response = client.post("/predict", data=pngs["green"], content_type=content_type)
    assert response.status_code == 200
    [prediction] = response.json["predictions"]
    assert prediction["label"] == "green"
    assert prediction["probability"] > 0.99
    assert prediction["top"][0] == {"label": "green", "probability": prediction["probability"]}
    assert [entry["label"] for entry in prediction["top"]] == ["green", "red", "blue", "white"]
    assert prediction["file"] is None


def test_the_probabilities_are_those_of_the_model(client, model, pngs):
    response = client.post("/predict", data=pngs["white"])
    by_label = {entry["label"]: entry["probability"] for entry in response.json["predictions"][0]["top"]}
    expected = model.package.golden[list(COLORS).index("white")].probabilities
    assert [by_label[name] for name in model.classes] == pytest.approx(expected, abs=1e-5)


def test_predictions_of_form_files_have_the_same_shape_and_the_order_of_the_files(client, pngs):
    form = {"a": (io.BytesIO(pngs["blue"]), "sea.png"), "b": (io.BytesIO(pngs["red"]), "fire.png")}
    two = client.post("/predict", data=form)
    assert [(entry["file"], entry["label"]) for entry in two.json["predictions"]] == [
        ("sea.png", "blue"),
        ("fire.png", "red"),
    ]
    one = client.post("/predict", data={"image": (io.BytesIO(pngs["red"]), "fire.png")})
    assert one.json.keys() == two.json.keys() == {"predictions", "model", "milliseconds", "request_id"}
    assert one.json["predictions"] == two.json["predictions"][1:]


@pytest.mark.parametrize(("top", "count"), [("1", 1), ("3", 3), ("400", 4)])
def test_top_sets_the_number_of_listed_classes(client, pngs, top, count):
    response = client.post(f"/predict?top={top}", data=pngs["red"])
    assert len(response.json["predictions"][0]["top"]) == count


ERRORS = [
    # method, path, body, content type, status, code, part of the text
    ("POST", "/predict", b"", "image/png", 400, "invalid_image", "empty"),
    ("POST", "/predict", b"no image at all", "image/png", 400, "invalid_image", "JPEG, PNG"),
    ("POST", "/predict", noise_png(16)[:400], "image/png", 400, "invalid_image", "cannot be decoded"),
    ("POST", "/predict", noise_png(110), "image/png", 413, "image_too_large", "10,000"),
    ("POST", "/predict", b"x" * 100_001, "image/png", 413, "body_too_large", "100,001 bytes"),
    ("POST", "/predict", b"{}", "application/json", 415, "unsupported_media_type", "application/json"),
    ("POST", "/predict", b"--b--\r\n", "multipart/form-data; boundary=b", 400, "no_image", "no file"),
    ("POST", "/predict", b"x" * 100_001, "multipart/form-data; boundary=b", 413, "body_too_large", "limit"),
    ("POST", "/predict?top=0", b"", None, 400, "invalid_parameter", "positive integer, not '0'"),
    ("POST", "/predict?top=-1", b"", None, 400, "invalid_parameter", "positive integer, not '-1'"),
    ("POST", "/predict?top=five", b"", None, 400, "invalid_parameter", "five"),
    ("GET", "/predict", None, None, 405, "method_not_allowed", "/predict supports POST, not GET"),
    ("DELETE", "/", None, None, 405, "method_not_allowed", "/ supports GET, not DELETE"),
    ("GET", "/nothing", None, None, 404, "not_found", "/nothing does not exist"),
    ("GET", "/examples/4.png", None, None, 404, "not_found", "4 examples"),
    ("GET", "/static/../server.py", None, None, 404, "not_found", "does not exist"),
]


@pytest.mark.parametrize(
    ("method", "path", "body", "content_type", "status", "code", "expected"),
    ERRORS,
    ids=[f"{row[0]} {row[1]} {row[5]}" for row in ERRORS],
)
def test_errors_have_one_shape_and_name_the_reason(client, method, path, body, content_type, status, code, expected):
    response = client.open(path, method=method, data=body, content_type=content_type)
    assert response.status_code == status
    assert response.content_type == "application/json"
    assert response.json.keys() == {"error", "code", "status"}
    assert (response.json["code"], response.json["status"]) == (code, status)
    assert expected in response.json["error"]
    assert response.headers["Content-Security-Policy"]
    assert response.headers["X-Request-Id"]


def test_the_error_names_the_invalid_file_of_a_form(client, pngs):
    form = {"a": (io.BytesIO(pngs["blue"]), "sea.png"), "b": (io.BytesIO(b"text"), "notes.txt")}
    response = client.post("/predict", data=form)
    assert response.status_code == 400
    assert response.json["error"].startswith("notes.txt: ")


def test_the_number_of_form_parts_is_limited_by_the_maximum_size_of_the_body(model):
    form = {f"f{n}": str(n) for n in range(30)}
    response = make_client(model, max_upload=1000).post("/predict", data=form, content_type="multipart/form-data")
    assert (response.status_code, response.json["code"]) == (413, "body_too_large")


def test_a_draining_server_answers_but_is_not_ready(model, pngs):
    draining = threading.Event()
    client = make_client(model, draining=draining)
    assert client.get("/readyz").json == {"status": "ready"}
    draining.set()
    response = client.get("/readyz")
    assert (response.status_code, response.json["code"]) == (503, "draining")
    assert response.headers["Retry-After"] == "1"
    assert client.get("/healthz").json == {"status": "live"}
    assert client.post("/predict", data=pngs["red"]).status_code == 200


def test_the_model_name_in_headers_is_printable_ascii(client_of_package):
    client = client_of_package({"name": "Grün\n", "version": 7, "uri": "models:/x/7"})
    assert client.get("/healthz").headers["X-Model-Name"] == "Gr?n?"


@pytest.mark.parametrize(
    "report", ["https://mlflow.example.org/#/models/flowers/7?a=b", "http://127.0.0.1:5000/report.html", "", None]
)
def test_the_page_links_to_the_report_that_the_registry_names(client_of_package, report):
    page = client_of_package({"version": 7, "report": report}).get("/", headers=BROWSER).text
    links = re.findall(r'<a href="([^"]+)" rel="noopener noreferrer">evaluation report', page)
    assert links == ([report] if report else [])


def test_quotes_in_the_url_of_the_report_are_escaped(client_of_package):
    report = 'https://a.example.org/"><script>alert(1)</script>'
    assert "<script>alert" not in client_of_package({"version": 7, "report": report}).get("/", headers=BROWSER).text


def test_the_page_states_the_limitations_of_the_model(client_of_package):
    text = " ".join(client_of_package(validation_accuracy="0.875").get("/", headers=BROWSER).text.split())
    for expected in (
        "one of its 4 classes",
        "scaled to 16 × 16 pixels",
        "accuracy on validation images was 87.5 %",
        "decisions about people",
    ):
        assert expected in text


def test_the_page_describes_the_model_and_loads_nothing_from_other_hosts(client):
    page = client.get("/", headers=BROWSER)
    assert page.content_type == "text/html; charset=utf-8"
    for name in (*COLORS, "unregistered", "dddddddddddd", "abc123"):
        assert name in page.text
    urls = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert urls
    for url in urls:
        assert client.get(f"/{url}").status_code == 200, url
    assert not re.search(r"\son\w+=|style=|<style|<script>", page.text)


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("digits", "digits"),
        ("/home/anna/photos", "photos"),
        ("https://anna:secret@example.org/a/flowers.zip?token=secret", "flowers.zip"),
    ],
)
def test_the_page_shows_the_name_of_the_data_but_not_its_location(client_of_package, source, shown):
    text = client_of_package(data_source=source).get("/", headers=BROWSER).text
    assert f"<dd>{shown}</dd>" in text
    assert "anna" not in text
    assert "secret" not in text


def test_values_from_the_package_are_escaped_on_the_page(client_of_package):
    text = client_of_package(name="<b>", data_source="<script>alert(1)<script>").get("/", headers=BROWSER).text
    assert "<script>alert" not in text
    assert "<b>" not in text


@pytest.mark.parametrize(
    "accept",
    [None, "*/*", "application/json", "text/html;q=0.5, application/json", "text/plain", ";;q=x", "text/html;q=0"],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_programs_learn_at_the_root_that_the_server_is_alive(client, accept, method):
    """As KServe's own server answers its V1 clients."""
    response = client.open("/", method=method, headers={"Accept": accept} if accept else {})
    assert (response.status_code, response.content_type) == (200, "application/json")
    assert response.text == ('{"status": "alive"}\n' if method == "GET" else "")
    assert response.headers["Vary"] == "Accept"


@pytest.mark.parametrize(
    "accept", [BROWSER["Accept"], "text/html", "text/*", "application/json;q=0.1, text/html;q=0.2"]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_browsers_get_the_page_at_the_root(client, accept, method):
    response = client.open("/", method=method, headers={"Accept": accept})
    assert (response.status_code, response.content_type) == (200, "text/html; charset=utf-8")
    assert response.headers["Vary"] == "Accept"


def test_the_examples_are_the_golden_images(client, model):
    for number, golden in enumerate(model.package.golden):
        response = client.get(f"/examples/{number}.png")
        assert (response.content_type, response.data) == ("image/png", golden.png)
