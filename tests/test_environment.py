import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from image_classifier.environment import configure_libraries
from tests.isolated_run import HOME_NAME, PASSWORD, SIGNATURE, USER
from tests.steps.chain import write_images

ISOLATION = ["unshare", "--user", "--map-root-user", "--net", "--mount"]


def can_isolate() -> bool:
    return bool(shutil.which("unshare")) and subprocess.run([*ISOLATION, "true"], capture_output=True).returncode == 0


@dataclass(frozen=True)
class Isolated:
    """A finished run: its folder, what it printed, and the names that it looked up."""

    folder: Path
    status: int
    stdout: str
    stderr: str
    names: list[str]


@pytest.fixture(scope="module")
def isolated(tmp_path_factory: pytest.TempPathFactory) -> Isolated:
    """`run` with a fresh HOME, data behind a password, and a proxy that does not answer."""
    if not can_isolate():
        pytest.skip("needs a kernel that gives this user a network namespace")
    folder = tmp_path_factory.mktemp("isolated")
    for name in ("user", "tmp", "cwd"):
        (folder / name).mkdir()
    shutil.make_archive(str(folder / "photos"), "zip", write_images(folder / "images"))
    outcome = folder / "outcome.json"
    command = [*ISOLATION, sys.executable, "-m", "tests.isolated_run", str(folder), str(outcome)]
    subprocess.run(command, cwd=Path(__file__).parents[1], check=True, timeout=110)
    return Isolated(folder, **json.loads(outcome.read_text(encoding="utf-8")))


@pytest.mark.slow
def test_a_run_behind_a_proxy_reaches_its_own_server_and_data_on_loopback(isolated):
    assert isolated.status == 0, isolated.stderr
    assert "/predict; the answer is" in isolated.stdout
    assert isolated.stdout.splitlines()[-1].endswith("; it serves")


@pytest.mark.slow
def test_nothing_is_written_outside_of_the_home(isolated):
    assert {name: os.listdir(isolated.folder / name) for name in ("user", "tmp", "cwd")} == {
        "user": [],
        "tmp": [],
        "cwd": [],
    }
    beside = {"photos.zip", "images", "user", "tmp", "cwd", "resolv.conf", "outcome.json"}
    assert set(os.listdir(isolated.folder)) == {HOME_NAME, *beside}


@pytest.mark.slow
def test_the_home_has_everything_whatever_its_name(isolated):
    assert {"mlflow.db", "artifacts", "work", "models", "cache"} <= set(os.listdir(isolated.folder / HOME_NAME))


@pytest.mark.slow
def test_no_name_is_looked_up(isolated):
    assert isolated.names == []


@pytest.mark.slow
@pytest.mark.parametrize("secret", [USER, PASSWORD, SIGNATURE])
def test_the_credentials_of_a_data_address_are_stored_and_printed_nowhere(isolated, secret):
    assert secret not in isolated.stdout + isolated.stderr
    files = [path for path in (isolated.folder / HOME_NAME).rglob("*") if path.is_file()]
    assert len(files) > 50
    assert [path for path in files if secret.encode() in path.read_bytes() or secret in str(path)] == []


@pytest.mark.slow
def test_a_service_link_is_ignored_with_a_word(isolated):
    assert isolated.stderr.startswith("ignored IMAGE_CLASSIFIER_PORT=tcp://10.0.0.1:80, which Kubernetes sets for a ")


@pytest.mark.slow
def test_a_user_without_a_passwd_entry_and_home_needs_neither(tmp_path, empty_database):
    if not can_isolate():
        pytest.skip("needs a kernel that gives this user a user namespace")
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(empty_database, home)
    command = ["unshare", "--user", "--map-user", "12345", sys.executable, "-m", "image_classifier.cli", "history"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": "/missing"}
    done = subprocess.run(
        [*command, "--home", str(home)], env=environment, capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "no version of digits has been promoted" in done.stdout


@pytest.mark.slow
def test_a_deleted_current_folder_is_one_line(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    script = f"cd {folder} && rmdir {folder} && exec {sys.executable} -m image_classifier.cli history"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: the current folder was deleted; change to another one"


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of a user who has set nothing; `restored_environment` undoes what a test changes."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.endswith(("_TELEMETRY", "_CA_BUNDLE", "SSL_CERT_FILE")):
            monkeypatch.delenv(name)
    return monkeypatch


def test_telemetry_is_off_unless_the_user_wants_it(clean, tmp_path):
    clean.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    configure_libraries(tmp_path)
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "false"


@pytest.mark.parametrize("variable", ["no_proxy", "NO_PROXY"])
def test_addresses_that_the_user_excepts_from_proxies_stay_excepted(clean, tmp_path, variable):
    clean.setenv(variable, "mlflow.internal, .svc")
    configure_libraries(tmp_path)
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"]
    assert os.environ["no_proxy"].split(",")[:3] == ["mlflow.internal", ".svc", "localhost"]
    configure_libraries(tmp_path)
    assert os.environ["no_proxy"].count("localhost") == 1


@pytest.mark.parametrize("address", ["http://127.0.0.1:8080/", "http://localhost:8080/", "http://[::1]:8080/"])
def test_every_library_bypasses_the_proxy_for_loopback(clean, tmp_path, address):
    from requests.utils import should_bypass_proxies

    clean.setenv("HTTP_PROXY", "http://proxy:3128")
    configure_libraries(tmp_path)
    assert should_bypass_proxies(address, no_proxy=None)
    assert not should_bypass_proxies("http://example.org/", no_proxy=None)


def test_httpx_which_refuses_entries_that_it_cannot_parse_bypasses_the_proxy_for_loopback(clean, tmp_path, elsewhere):
    clean.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    configure_libraries(tmp_path)
    assert httpx.get(f"{elsewhere}/200").status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get("http://example.org/")


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_ca_bundle_of_one_library_is_for_all(clean, tmp_path, variable):
    bundle = tmp_path / "ca.pem"
    bundle.touch()
    clean.setenv(variable, str(bundle))
    configure_libraries(tmp_path)
    assert os.environ["SSL_CERT_FILE"] == os.environ["REQUESTS_CA_BUNDLE"] == str(bundle)


def test_a_home_that_cannot_be_written_gets_no_caches(clean, tmp_path):
    clean.delenv("MPLCONFIGDIR", raising=False)
    (tmp_path / "file").touch()
    configure_libraries(tmp_path / "file" / "cache")
    assert not os.environ["MPLCONFIGDIR"].startswith(str(tmp_path / "file"))
