"""Files with a known SHA-256 from the web: fetched once, checked, and kept in the cache directory."""

import hashlib
import os
import socket
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from largegen.errors import HubError, InputError, first_line
from largegen.runtime.files import atomic, cache_directory

STALL_TIMEOUT_S = 30.0  # a server that is silent for so long has gone


def cached_file(url: str, sha256: str, name: str, option: str) -> Path:
    """The file at `url`, from the cache directory where it is kept as `name`, else downloaded with a progress bar.

    Several processes may ask at once: each downloads under a name of its own. option: the one that takes a file
    instead. Raises HubError where the file cannot be had or is not the one that `sha256` stands for.
    """
    path = cache_directory() / name
    if path.is_file() and file_sha256(path) == sha256:
        return path
    instead = f"download it from {url} and give {option} FILE"
    if not reachable(url):
        raise HubError(f"{name}: {urlsplit(url).hostname} cannot be reached; {instead}")
    with atomic(path) as temporary:
        digest = hashlib.sha256()
        with temporary.open("wb") as file:
            for chunk in _chunks(url, name, instead):
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != sha256:
            raise HubError(
                f"{name}: what {url} gives has SHA-256 {digest.hexdigest()}, not {sha256}; give {option} FILE instead"
            )
    return path


def _chunks(url: str, name: str, instead: str) -> Iterator[bytes]:
    """The content of `url` as it arrives, to the last byte. Raises HubError where it does not come."""
    from tqdm import tqdm

    done = 0
    try:
        with urllib.request.urlopen(url, timeout=STALL_TIMEOUT_S) as response:
            size = response.length
            with tqdm(total=size, desc=name, unit="B", unit_scale=True, disable=None) as bar:
                while chunk := response.read(2**20):
                    yield chunk
                    done += len(chunk)
                    bar.update(len(chunk))
    except (OSError, HTTPException) as error:
        raise HubError(f"{name}: {first_line(error)}; try again, or {instead}") from error
    if size is not None and done < size:  # http.client says nothing of it
        raise HubError(f"{name}: the connection ended after {done} of {size} bytes; try again, or {instead}")


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal. Raises InputError where it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or first_line(error)}") from error


def reachable(url: str, timeout_s: float = 4.0) -> bool:
    """Whether the server of `url`, or the proxy on the way to it, takes connections; HF_HUB_OFFLINE=1 says no."""
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
