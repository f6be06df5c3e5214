"""Files with a known SHA-256 from the web: fetched once, checked, and kept in the cache directory."""

import hashlib
import os
import socket
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from urllib.error import URLError
from urllib.parse import urlsplit

from largegen.errors import HubError, InputError, first_line
from largegen.runtime.files import atomic, cache_directory

STALL_TIMEOUT_S = 30.0  # a server that is silent for so long has gone


def cached_file(url: str, sha256: str, name: str, option: str) -> Path:
    """Return the file at `url` from the cache directory, downloading it with a progress bar where it is not there.

    Several processes may ask at once: each downloads under a name of its own.

    Args:
        url: Where it is on the web.
        sha256: The SHA-256 of its content, in hexadecimal.
        name: The name that it is kept under.
        option: What takes a file instead, for the message of an error.

    Raises:
        HubError: Where it cannot be had, or is not the file that `sha256` stands for.
    """
    path = cache_directory() / name
    if path.is_file() and file_sha256(path) == sha256:
        return path
    instead = f"download it from {url} and give {option} FILE"
    if not reachable(url):
        raise HubError(f"{name}: {urlsplit(url).hostname} cannot be reached; {instead}")
    with atomic(path) as temporary:
        _download(url, temporary, name, instead)
        size, found = temporary.stat().st_size, file_sha256(temporary)
        if found != sha256:  # also where the connection ended early, of which http.client says nothing
            raise HubError(
                f"{name}: {url} gave {size} bytes of SHA-256 {found}, not {sha256}; try again, or give {option} FILE"
            )
    return path


def _download(url: str, path: Path, name: str, instead: str) -> None:
    from torch.hub import download_url_to_file

    with _stall_timeout():
        try:
            download_url_to_file(url, str(path), progress=sys.stderr.isatty())
        except (URLError, ConnectionError, TimeoutError, SSLError, HTTPException) as error:  # the disk's errors pass
            raise HubError(f"{name}: {first_line(error)}; try again, or {instead}") from error


@contextmanager
def _stall_timeout() -> Iterator[None]:
    """Let connections opened meanwhile fail after STALL_TIMEOUT_S of silence; torch.hub sets no limit itself."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal.

    Raises:
        InputError: Where the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or first_line(error)}") from error


def reachable(url: str, timeout_s: float = 4.0) -> bool:
    """Find out whether the server of `url`, or the proxy on the way to it, takes connections.

    HF_HUB_OFFLINE=1 in the environment says that it does not.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    server = urlsplit(url)
    proxy = urllib.request.getproxies().get(server.scheme)
    target = urlsplit(proxy) if proxy and not urllib.request.proxy_bypass(server.netloc) else server
    default_port = 80 if target.scheme == "http" else 443
    try:
        with socket.create_connection((target.hostname, target.port or default_port), timeout_s):
            return True
    except OSError:
        return False
