"""Files from the web, served here by a thread of the test."""

import hashlib
import socket
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from helpers.disk import small_disk

from largegen.errors import HubError, InputError, OutputError
from largegen.runtime import downloads
from largegen.runtime.downloads import cached_file, file_sha256, reachable
from largegen.runtime.files import cache_directory

CONTENT = bytes(range(256)) * 20_000  # five chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        if self.path == "/absent":
            self.send_error(404)
            return
        if self.path == "/silent":
            time.sleep(0.5)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:1_500_000] if self.path == "/cut" else CONTENT)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server whose `url` has the file as /whole, breaks off in /cut and has nothing as /absent."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.requests = []
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(server, page="whole", sha256=SHA256):
    return cached_file(f"{server.url}/{page}", sha256, "weights.pt", "--some-weights")


def files(folder):
    return [path.name for path in folder.rglob("*") if path.is_file()]


def test_a_file_is_downloaded_once_and_kept(server, tmp_path):
    path = fetch(server)
    assert path == tmp_path / "largegen" / "weights.pt" == cache_directory() / "weights.pt"
    assert path.read_bytes() == CONTENT
    assert fetch(server) == path
    assert server.requests == ["/whole"]
    assert files(tmp_path) == ["weights.pt"]


def test_a_damaged_copy_is_downloaded_again(server):
    path = fetch(server)
    path.write_bytes(CONTENT[:-1])
    assert fetch(server).read_bytes() == CONTENT


def test_a_kept_file_needs_no_network(server, monkeypatch):
    path = fetch(server)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch(server) == path


@pytest.mark.parametrize(
    ("page", "sha256", "words"),
    [
        ("whole", "0" * 64, f"SHA-256 {SHA256}, not 0000"),
        ("cut", SHA256, "1500000.*bytes"),
        ("absent", SHA256, "404"),
    ],
)
def test_what_is_not_the_file_is_one_line_and_leaves_nothing(server, tmp_path, page, sha256, words):
    with pytest.raises(HubError, match=words) as caught:
        fetch(server, page, sha256)
    message = str(caught.value)
    assert "\n" not in message and f"{server.url}/{page}" in message and "--some-weights FILE" in message
    assert files(tmp_path) == []


@pytest.mark.parametrize(("variable", "value"), [("HF_HUB_OFFLINE", "1"), ("no_proxy", "127.0.0.1")])
def test_without_a_network_the_message_says_where_the_file_is(server, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    url = f"{server.url}/whole" if variable == "HF_HUB_OFFLINE" else "http://127.0.0.1:9/whole"  # nobody listens there
    with pytest.raises(HubError, match=f"127.0.0.1 cannot be reached; download it from {url} and give --some-weights"):
        cached_file(url, SHA256, "weights.pt", "--some-weights")
    assert not server.requests


def test_a_proxy_stands_for_the_server(server, monkeypatch):
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", server.url)
    assert reachable("http://nowhere.invalid/file")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert not reachable("http://nowhere.invalid/file")


def test_two_at_once_both_get_the_file(server, tmp_path):
    """Two processes: each has a temporary of its own, and the last rename wins."""
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=partial(cached_file, f"{server.url}/whole", SHA256, "weights.pt", "-")) for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0]
    assert (cache_directory() / "weights.pt").read_bytes() == CONTENT
    assert files(tmp_path) == ["weights.pt"]


def test_a_silent_server_is_given_up(server, monkeypatch):
    monkeypatch.setattr(downloads, "STALL_TIMEOUT_S", 0.2)
    before = socket.getdefaulttimeout()
    with pytest.raises(HubError, match="timed out; try again, or download it from"):
        fetch(server, "silent")
    assert socket.getdefaulttimeout() == before


def test_a_full_disk_is_said(server, tmp_path, monkeypatch):
    with small_disk(tmp_path / "disk", 64) as disk:
        monkeypatch.setenv("XDG_CACHE_HOME", str(disk))
        with pytest.raises(OutputError, match="no space left"):
            fetch(server)
        assert files(disk) == []


def test_a_missing_file_has_no_sha256(tmp_path):
    with pytest.raises(InputError, match=r"absent\.pt: cannot be read: No such file"):
        file_sha256(tmp_path / "absent.pt")
