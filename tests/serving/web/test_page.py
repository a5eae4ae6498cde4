"""The web page in a real browser, used as a person would."""

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from tests.serving.server_process import large_png, running

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1200,900",
)
# Dropped and pasted files arrive in a DataTransfer.
SEND_FILES = """
const [action, files] = arguments;
const transfer = new DataTransfer();
for (const [name, type, content] of files) {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  transfer.items.add(new File([bytes], name, { type }));
}
const target = document.querySelector("main");
if (action === "paste") {
  target.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true }));
} else {
  for (const step of ["dragover", "drop"]) {
    target.dispatchEvent(new DragEvent(step, { dataTransfer: transfer, bubbles: true, cancelable: true }));
  }
}
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="chromium and chromedriver are not on PATH"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield browser
    browser.quit()


@pytest.fixture
def page(browser: webdriver.Chrome, server) -> webdriver.Chrome:
    browser.get(server.address)
    browser.get_log("browser")
    return browser


def send_files(page, action, *files):
    """`action` is drop or paste; a file is its name, type and content."""
    encoded = [[name, file_type, base64.b64encode(content).decode()] for name, file_type, content in files]
    page.execute_script(SEND_FILES, action, encoded)


def results(page, count, seconds=10):
    """The results once there are `count` and none is pending, newest first."""

    def finished(_):
        found = page.find_elements(By.CSS_SELECTOR, ".result.done, .result.failed")
        return found if len(found) == count else None

    return WebDriverWait(page, seconds, 0.03).until(finished)


def text(result, name):
    return result.find_element(By.CSS_SELECTOR, f".{name}").text


@pytest.mark.parametrize("action", ["drop", "paste"])
def test_a_dropped_or_pasted_image_is_classified(page, pngs, action):
    send_files(page, action, ("leaf.png", "image/png", pngs["green"]))
    [result] = results(page, 1)
    assert text(result, "label") == "green"
    assert text(result, "file") == f"leaf.png, {len(pngs['green'])} bytes"
    rows = [row.text.split() for row in result.find_elements(By.CSS_SELECTOR, "tbody tr")]
    assert [row[0] for row in rows] == ["green", "red", "blue", "white"]
    assert rows[0][1:] == ["100.0", "%"]
    WebDriverWait(page, 5, 0.03).until(lambda _: bar_share(result) > 0.99)
    assert "ms total" in text(result, "timing")


def bar_share(result):
    track, bar = (result.find_element(By.CSS_SELECTOR, f".{name}") for name in ("track", "bar"))
    return bar.size["width"] / track.size["width"]


def test_each_of_several_chosen_files_is_classified(page, pngs, tmp_path):
    for name in ("red", "blue"):
        (tmp_path / f"{name}.png").write_bytes(pngs[name])
    picker = page.find_element(By.ID, "file")
    picker.send_keys(f"{tmp_path / 'red.png'}\n{tmp_path / 'blue.png'}")
    assert [text(result, "label") for result in results(page, 2)] == ["blue", "red"]


def test_an_example_can_be_chosen_by_keyboard(page):
    button = page.find_elements(By.CSS_SELECTOR, "[data-example]")[2]
    button.send_keys(Keys.ENTER)
    [result] = results(page, 1)
    assert text(result, "label") == "blue"


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("Corn_(maize)", "Corn_-maize-"),
        ("日本語", "日本語"),
        ("हिन्दी", "हिन्दी"),
        ("😀", "😀"),
        ("a'b $(x)", "a-b-x-"),
        ("?", "example"),
    ],
)
def test_an_example_is_named_after_its_class(page, label, name):
    button = page.find_elements(By.CSS_SELECTOR, "[data-example]")[2]
    page.execute_script("arguments[0].title = arguments[1]; arguments[0].click()", button, label)
    [result] = results(page, 1)
    assert text(result, "file").startswith(f"{name}.png, ")


def test_an_invalid_file_shows_the_error_and_the_others_are_classified(page, pngs):
    send_files(page, "drop", ("notes.txt", "text/plain", b"text"), ("sky.png", "image/png", pngs["blue"]))
    classified, failed = results(page, 2)
    assert text(classified, "label") == "blue"
    assert text(failed, "label") == "Not classified"
    assert "JPEG, PNG" in text(failed, "error")


def test_a_file_above_the_limit_is_not_sent(page):
    send_files(page, "drop", ("film.png", "image/png", b"x" * 200_001))
    [result] = results(page, 1)
    assert text(result, "error") == "The file is 201 kB; the limit is 200 kB."


def test_an_unreachable_server_shows_an_error(page, pngs):
    page.execute_cdp_cmd("Network.enable", {})
    conditions = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    page.execute_cdp_cmd("Network.emulateNetworkConditions", conditions)
    try:
        send_files(page, "drop", ("a.png", "image/png", pngs["red"]))
        [result] = results(page, 1)
        assert text(result, "error").startswith("Cannot reach the server")
    finally:
        page.execute_cdp_cmd("Network.disable", {})


def test_screen_readers_get_the_result_and_a_name_for_every_control(page, pngs):
    status = page.find_element(By.CSS_SELECTOR, "[role=status]")
    send_files(page, "drop", ("a.png", "image/png", pngs["red"]))
    results(page, 1)
    assert status.get_attribute("textContent") == "a.png: red, 100.0 %"
    unnamed = page.execute_script(
        "return [...document.querySelectorAll('button, input, a')]"
        ".filter((it) => !(it.textContent.trim() || it.labels?.length || it.querySelector('img[alt]')))"
        ".map((it) => it.outerHTML)"
    )
    assert unnamed == []


def test_the_shown_curl_command_works(page, pngs, server):
    send_files(page, "drop", ("it's red.png", "image/png", pngs["red"]))
    results(page, 1)
    command = page.find_element(By.ID, "curl").text
    assert command == f"curl --data-binary @'it'\\''s red.png' {server.address}/predict"
    response = server.request("POST", "/predict", pngs["red"], Content_Type="application/x-www-form-urlencoded")
    assert response.json["predictions"][0]["label"] == "red"


def test_the_shown_python_code_works(page, pngs, tmp_path):
    (tmp_path / "it's red.png").write_bytes(pngs["red"])
    send_files(page, "drop", ("it's red.png", "image/png", pngs["red"]))
    results(page, 1)
    code = page.find_element(By.ID, "python").text
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "red\n", done.stderr


def test_a_button_shows_the_code_for_an_earlier_image(page, pngs):
    send_files(page, "drop", ("first.png", "image/png", pngs["red"]))
    results(page, 1)
    send_files(page, "drop", ("second.png", "image/png", pngs["blue"]))
    _, first = results(page, 2)
    curl = page.find_element(By.ID, "curl")
    assert "@second.png" in curl.text
    first.find_element(By.CSS_SELECTOR, ".code").click()
    assert "@first.png" in curl.text
    assert page.switch_to.active_element.text == "Command line"


def test_a_photo_from_the_camera_is_classified(page, pngs, tmp_path):
    (tmp_path / "image.png").write_bytes(pngs["green"])
    camera = page.find_element(By.ID, "camera")
    assert camera.get_attribute("capture") == "environment"
    camera.send_keys(str(tmp_path / "image.png"))
    [result] = results(page, 1)
    assert text(result, "label") == "green"


def test_a_button_shows_and_hides_the_heat_map_over_the_image(page, pngs):
    send_files(page, "drop", ("a.png", "image/png", pngs["red"]))
    [result] = results(page, 1)
    button, heat = (result.find_element(By.CSS_SELECTOR, part) for part in (".explain", ".heat"))
    assert not heat.is_displayed()
    button.click()
    WebDriverWait(page, 10, 0.03).until(lambda _: heat.get_property("naturalWidth") == 256)
    assert heat.is_displayed()
    photo = result.find_element(By.CSS_SELECTOR, ".photo")
    assert {heat.rect[side] - photo.rect[side] for side in ("x", "y", "width", "height")} == {0}
    assert button.text == "Hide explanation"
    assert text(result, "legend").endswith("violet areas least. Method: occlusion.")
    button.click()
    assert not heat.is_displayed()


def test_requests_to_a_busy_server_are_retried(browser, package_folder, pngs, tmp_path):
    with running(package_folder, tmp_path / "log", "--threads", "1", "--queue", "0") as busy:
        browser.get(busy.address)
        large = large_png()
        send_files(browser, "drop", *[(f"{n}.png", "image/png", large) for n in range(2)])
        label = WebDriverWait(browser, 20, 0.01).until(
            lambda _: next(
                (
                    label.text
                    for label in browser.find_elements(By.CSS_SELECTOR, ".waiting .label")
                    if "busy" in label.text
                ),
                None,
            )
        )
        assert label == "The server is busy; retrying …"
        assert [text(result, "label") for result in results(browser, 2, seconds=60)] == ["white"] * 2
        assert "status=503" in busy.log.read_text()


def test_a_server_with_a_token_asks_for_it(browser, package_folder, pngs, tmp_path):
    with running(package_folder, tmp_path / "log", "--token", "secret") as protected:
        browser.get(protected.address)
        send_files(browser, "drop", ("a.png", "image/png", pngs["red"]))
        [result] = results(browser, 1)
        assert text(result, "error").startswith("Authentication required")
        browser.find_element(By.ID, "token").send_keys("secret")
        send_files(browser, "drop", ("a.png", "image/png", pngs["red"]))
        assert text(results(browser, 2)[0], "label") == "red"
        (tmp_path / "a.png").write_bytes(pngs["red"])
        for command in (
            ["sh", "-c", browser.find_element(By.ID, "curl").text],
            [sys.executable, "-c", browser.find_element(By.ID, "python").text],
        ):
            done = subprocess.run(
                command, cwd=tmp_path, env={**os.environ, "TOKEN": "secret"}, capture_output=True, text=True
            )
            assert "red" in done.stdout, done.stderr


@pytest.mark.parametrize("width", [320, 390, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_and_follows_the_color_scheme(page, pngs, width, scheme):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": width < 600})
    try:
        actions = " ".join(action.text for action in page.find_elements(By.CSS_SELECTOR, ".drop"))
        assert ("Take a photo" in actions, "Drop" in actions) == (width < 600, width >= 600)
        send_files(page, "drop", ("a-name-without-any-space-" * 4 + ".png", "image/png", pngs["white"]))
        [result] = results(page, 1)
        result.find_element(By.CSS_SELECTOR, ".explain").click()
        WebDriverWait(page, 10, 0.03).until(lambda _: text(result, "legend"))
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
        color = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        brightness = sum(json.loads(color.replace("rgb(", "[").replace(")", "]")))
        assert (brightness < 384) == (scheme == "dark")
    finally:
        page.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_the_page_does_not_violate_its_security_policy(page, pngs):
    send_files(page, "drop", ("a.png", "image/png", pngs["red"]))
    results(page, 1)
    page.find_element(By.CSS_SELECTOR, "[data-copies=curl]").click()
    assert page.get_log("browser") == []
