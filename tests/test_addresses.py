import http.server
import socket
import threading
import urllib.error
import urllib.request

import pytest

from image_classifier.addresses import address_of, open_directly, open_url, request_to


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080"),
        ("localhost", "http://localhost:8080"),
        ("::1", "http://[::1]:8080"),
        ("fd00::2", "http://[fd00::2]:8080"),
        ("0.0.0.0", "http://127.0.0.1:8080"),
        ("::", "http://[::1]:8080"),
    ],
)
def test_the_address_of_a_server_can_be_opened(host, address):
    assert address_of(host, 8080) == address


def test_a_direct_request_uses_no_proxy(elsewhere, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with open_directly(f"{elsewhere}/200", timeout=5) as response:
        assert response.status == 200
    with pytest.raises(urllib.error.HTTPError):
        open_directly(request_to(f"{elsewhere}/404"), timeout=5)


def test_this_machine_is_reached_past_the_proxy_under_each_of_its_names(elsewhere, monkeypatch):
    monkeypatch.setattr(urllib.request, "_opener", None)  # urllib keeps the proxies of its first request
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    port = elsewhere.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost"):
        with open_url(f"http://{host}:{port}/200", timeout=5) as response:
            assert response.status == 200
    with pytest.raises(urllib.error.URLError, match="refused"):
        open_url("http://example.org/", timeout=5)


def test_a_server_on_the_loopback_of_ipv6_is_reached_past_the_proxy(monkeypatch):
    class Server(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with Server(("::1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        with open_url(address_of("::1", server.server_port), timeout=5) as response:
            assert response.status == 200


def test_user_and_password_of_a_url_become_a_header():
    request = request_to("https://me:p%40ss@host:8443/a?b=c", {"X-Other": "1"})
    assert request.full_url == "https://host:8443/a?b=c"
    assert request.get_header("Authorization") == "Basic bWU6cEBzcw=="
    assert request.get_header("X-other") == "1"


def test_a_token_that_is_set_wins_over_the_user_of_a_url():
    assert request_to("https://me@host", {"Authorization": "Bearer x"}).get_header("Authorization") == "Bearer x"
    assert request_to("https://host").get_header("Authorization") is None
