"""Files from the Hugging Face hub, and one clear line where they cannot be had."""

import os
import socket
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from largegen.errors import HubError


def page_of(repo: str) -> str:
    """The page of a repository `ORG/NAME` or `ORG/NAME@REVISION`."""
    return f"https://huggingface.co/{repo.partition('@')[0]}"


def hub_file(repo: str, *names: str) -> Path:
    """The first of the files `names` that `repo` (ORG/NAME[@REVISION]) holds, from the cache if it can be.

    Raises HubError with the page to read where the repository is gated, unknown or out of reach.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

    page = page_of(repo)
    repo, _, revision = repo.partition("@")
    reachable = _hub_reachable()
    for name in names:
        try:
            return Path(hf_hub_download(repo, name, revision=revision or None, local_files_only=not reachable))
        except GatedRepoError as error:
            raise HubError(
                f"{repo}: gated; accept its terms at {page} and set HF_TOKEN, or give --encoder-weights FILE"
            ) from error
        except RepositoryNotFoundError as error:
            raise HubError(
                f"{repo}: not on the hub, or not for you; see {page} or give --encoder-weights FILE"
            ) from error
        except EntryNotFoundError:
            continue
        except Exception as error:  # the client's and its HTTP library's families change between releases
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise HubError(f"{repo}: {reason}; see {page} or give --encoder-weights FILE") from error
    if reachable:
        raise HubError(f"{repo}: {page} has no {' or '.join(names)}; give --encoder-weights FILE")
    raise HubError(f"{repo}: the hub cannot be reached; download it from {page} and give --encoder-weights FILE")


def _hub_reachable(timeout_s: float = 4.0) -> bool:
    """Whether the hub answers at all: asked first, because its client retries for half a minute per file."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    proxy = urllib.request.getproxies().get(endpoint.scheme)
    target = urlsplit(proxy) if proxy and not urllib.request.proxy_bypass(endpoint.netloc) else endpoint
    default_port = 80 if target.scheme == "http" else 443
    try:
        with socket.create_connection((target.hostname, target.port or default_port), timeout_s):
            return True
    except OSError:
        return False
