"""The page, in a real browser, as a person uses it."""

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
# Files as a person has them: dropped and pasted ones arrive in a DataTransfer.
GIVE = """
const [kind, files] = arguments;
const transfer = new DataTransfer();
for (const [name, type, content] of files) {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  transfer.items.add(new File([bytes], name, { type }));
}
const target = document.querySelector("main");
if (kind === "paste") {
  target.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true }));
} else {
  for (const step of ["dragover", "drop"]) {
    target.dispatchEvent(new DragEvent(step, { dataTransfer: transfer, bubbles: true, cancelable: true }));
  }
}
"""

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="chromium and chromedriver are not on PATH"
)


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


def give(page, kind, *files):
    encoded = [[name, kind_, base64.b64encode(content).decode()] for name, kind_, content in files]
    page.execute_script(GIVE, kind, encoded)


def cards(page, count, seconds=10):
    """The answers, when there are so many and none is waited for; the last asked comes first."""
    return WebDriverWait(page, seconds, 0.03).until(
        lambda _: (
            len(found := page.find_elements(By.CSS_SELECTOR, ".answer.done, .answer.failed")) == count
            and found
        )
    )


def told(card, part):
    return card.find_element(By.CSS_SELECTOR, f".{part}").text


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_an_image_that_is_dropped_or_pasted_is_answered(page, pngs, kind):
    give(page, kind, ("leaf.png", "image/png", pngs["green"]))
    [card] = cards(page, 1)
    assert told(card, "label") == "green"
    assert told(card, "file") == f"leaf.png, {len(pngs['green'])} bytes"
    rows = [row.text.split() for row in card.find_elements(By.CSS_SELECTOR, "tbody tr")]
    assert [row[0] for row in rows] == ["green", "red", "blue", "white"]
    assert rows[0][1:] == ["100.0", "%"]
    WebDriverWait(page, 5, 0.03).until(lambda _: bar_share(card) > 0.99)
    assert "ms in all" in told(card, "timing")


def bar_share(card):
    track, bar = (card.find_element(By.CSS_SELECTOR, f".{name}") for name in ("track", "bar"))
    return bar.size["width"] / track.size["width"]


def test_several_files_that_are_picked_are_answered_each(page, pngs, tmp_path):
    for name in ("red", "blue"):
        (tmp_path / f"{name}.png").write_bytes(pngs[name])
    picker = page.find_element(By.ID, "file")
    picker.send_keys(f"{tmp_path / 'red.png'}\n{tmp_path / 'blue.png'}")
    assert [told(card, "label") for card in cards(page, 2)] == ["blue", "red"]


def test_an_example_is_asked_for_by_keyboard(page):
    button = page.find_elements(By.CSS_SELECTOR, "[data-example]")[2]
    button.send_keys(Keys.ENTER)
    [card] = cards(page, 1)
    assert told(card, "label") == "blue"


def test_a_wrong_file_is_explained_in_words_and_the_others_are_answered(page, pngs):
    give(page, "drop", ("notes.txt", "text/plain", b"text"), ("sky.png", "image/png", pngs["blue"]))
    answered, failed = cards(page, 2)
    assert told(answered, "label") == "blue"
    assert told(failed, "label") == "No answer"
    assert told(failed, "error").startswith("This is no image of the accepted formats: JPEG, PNG")


def test_a_file_above_the_limit_is_refused_before_it_is_sent(page):
    give(page, "drop", ("film.png", "image/png", b"x" * 200_001))
    [card] = cards(page, 1)
    assert told(card, "error") == "The file has 201 kB, more than the limit of 200 kB."


def test_a_server_that_is_gone_is_explained_in_words(page, pngs):
    page.execute_cdp_cmd("Network.enable", {})
    conditions = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    page.execute_cdp_cmd("Network.emulateNetworkConditions", conditions)
    try:
        give(page, "drop", ("a.png", "image/png", pngs["red"]))
        [card] = cards(page, 1)
        assert told(card, "error").startswith("The server cannot be reached")
    finally:
        page.execute_cdp_cmd("Network.disable", {})


def test_a_screen_reader_is_told_what_came_out(page, pngs):
    status = page.find_element(By.CSS_SELECTOR, "[role=status]")
    give(page, "drop", ("a.png", "image/png", pngs["red"]))
    cards(page, 1)
    assert status.get_attribute("textContent") == "a.png: red, 100.0 %"
    unnamed = page.execute_script(
        "return [...document.querySelectorAll('button, input, a')]"
        ".filter((it) => !(it.textContent.trim() || it.labels?.length || it.querySelector('img[alt]')))"
        ".map((it) => it.outerHTML)"
    )
    assert unnamed == []


def test_the_command_that_is_shown_works(page, pngs, server, tmp_path):
    give(page, "drop", ("it's red.png", "image/png", pngs["red"]))
    cards(page, 1)
    command = page.find_element(By.ID, "curl").text
    assert command == f"curl --data-binary @'it'\\''s red.png' {server.address}/predict"
    answer = server.ask("POST", "/predict", pngs["red"], Content_Type="application/x-www-form-urlencoded")
    assert answer.json["predictions"][0]["label"] == "red"


def test_the_python_that_is_shown_works(page, pngs, tmp_path):
    (tmp_path / "it's red.png").write_bytes(pngs["red"])
    give(page, "drop", ("it's red.png", "image/png", pngs["red"]))
    cards(page, 1)
    code = page.find_element(By.ID, "python").text
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "red\n", done.stderr


def test_the_commands_for_an_earlier_image_are_a_button_away(page, pngs):
    give(page, "drop", ("first.png", "image/png", pngs["red"]))
    cards(page, 1)
    give(page, "drop", ("second.png", "image/png", pngs["blue"]))
    _, first = cards(page, 2)
    curl = page.find_element(By.ID, "curl")
    assert "@second.png" in curl.text
    first.find_element(By.CSS_SELECTOR, ".program").click()
    assert "@first.png" in curl.text
    assert page.switch_to.active_element.text == "From a terminal"


def test_a_photograph_that_was_taken_is_answered(page, pngs, tmp_path):
    (tmp_path / "image.png").write_bytes(pngs["green"])
    camera = page.find_element(By.ID, "camera")
    assert camera.get_attribute("capture") == "environment"
    camera.send_keys(str(tmp_path / "image.png"))
    [card] = cards(page, 1)
    assert told(card, "label") == "green"


def test_a_button_lays_over_the_image_what_it_was_seen_by_and_takes_it_away(page, pngs):
    give(page, "drop", ("a.png", "image/png", pngs["red"]))
    [card] = cards(page, 1)
    button, heat = (card.find_element(By.CSS_SELECTOR, part) for part in (".explain", ".heat"))
    assert not heat.is_displayed()
    button.click()
    WebDriverWait(page, 10, 0.03).until(lambda _: heat.get_property("naturalWidth") == 256)
    assert heat.is_displayed()
    photo = card.find_element(By.CSS_SELECTOR, ".photo")
    assert {heat.rect[side] - photo.rect[side] for side in ("x", "y", "width", "height")} == {0}
    assert button.text == "Hide what it looked at"
    button.click()
    assert not heat.is_displayed()


def test_a_server_with_too_much_to_do_is_asked_again(browser, package_folder, pngs, tmp_path):
    with running(package_folder, tmp_path / "log", "--threads", "1", "--queue", "0") as busy:
        browser.get(busy.address)
        large = large_png()
        give(browser, "drop", *[(f"{n}.png", "image/png", large) for n in range(3)])
        said = WebDriverWait(browser, 20, 0.01).until(
            lambda _: next(
                (
                    label.text
                    for label in browser.find_elements(By.CSS_SELECTOR, ".waiting .label")
                    if "busy" in label.text
                ),
                None,
            )
        )
        assert said == "The server is busy; asking again …"
        assert [told(card, "label") for card in cards(browser, 3, seconds=60)] == ["white"] * 3
        assert "status=503" in busy.log.read_text()


def test_a_token_that_the_server_wants_is_asked_for(browser, package_folder, pngs, tmp_path):
    with running(package_folder, tmp_path / "log", "--token", "secret") as closed:
        browser.get(closed.address)
        give(browser, "drop", ("a.png", "image/png", pngs["red"]))
        [card] = cards(browser, 1)
        assert told(card, "error").startswith("This server wants a token")
        browser.find_element(By.ID, "token").send_keys("secret")
        give(browser, "drop", ("a.png", "image/png", pngs["red"]))
        assert told(cards(browser, 2)[0], "label") == "red"
        (tmp_path / "a.png").write_bytes(pngs["red"])
        for command in (
            ["sh", "-c", browser.find_element(By.ID, "curl").text],
            [sys.executable, "-c", browser.find_element(By.ID, "python").text],
        ):
            done = subprocess.run(
                command,
                cwd=tmp_path,
                env={**os.environ, "TOKEN": "secret"},
                capture_output=True,
                text=True,
            )
            assert "red" in done.stdout, done.stderr


@pytest.mark.parametrize("width", [320, 390, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_follows_the_colour_scheme(page, pngs, width, scheme):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": width < 600})
    try:
        offers = " ".join(offer.text for offer in page.find_elements(By.CSS_SELECTOR, ".drop"))
        assert ("Take a photo" in offers, "Drop" in offers) == (width < 600, width >= 600)
        give(page, "drop", ("a-name-without-any-space-" * 4 + ".png", "image/png", pngs["white"]))
        [card] = cards(page, 1)
        card.find_element(By.CSS_SELECTOR, ".explain").click()
        WebDriverWait(page, 10, 0.03).until(lambda _: told(card, "legend"))
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
        colour = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        brightness = sum(json.loads(colour.replace("rgb(", "[").replace(")", "]")))
        assert (brightness < 384) == (scheme == "dark")
    finally:
        page.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_nothing_on_it_breaks_its_own_security_policy(page, pngs):
    give(page, "drop", ("a.png", "image/png", pngs["red"]))
    cards(page, 1)
    page.find_element(By.CSS_SELECTOR, "[data-copies=curl]").click()
    assert page.get_log("browser") == []
