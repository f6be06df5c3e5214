"""Files from the Hugging Face hub, and one clear line where they cannot be had."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from largegen.errors import HubError, InputError, first_line


def page_of(repo: str) -> str:
    """Return the web page of a repository `ORG/NAME` or `ORG/NAME@REVISION`."""
    return f"https://huggingface.co/{repo.partition('@')[0]}"


def hub_file(repo: str, *names: str, option: str = "`encoder_weights`") -> Path:
    """Return a file of a repository, from the cache if it is there.

    Args:
        repo: ORG/NAME or ORG/NAME@REVISION.
        names: The first of these that the repository holds is taken.
        option: What takes a file instead, for the message of an error.

    Raises:
        HubError: With the page to read, where the repository is gated, unknown or unreachable, or has no such file.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    page, instead = page_of(repo), f"give {option} FILE"
    repo, _, revision = repo.partition("@")
    online = _hub_reachable()
    with _hub_errors(repo, instead):
        for name in names:
            try:
                return Path(hf_hub_download(repo, name, revision=revision or None, local_files_only=not online))
            except EntryNotFoundError:
                continue
    if online:
        raise HubError(f"{repo}: {page} has no {' or '.join(names)}; {instead}")
    raise HubError(f"{repo}: the hub cannot be reached; download it from {page} and {instead}")


def hub_folder(source: str) -> tuple[Path, str]:
    """Return a folder of a repository, from the cache if it is there.

    Args:
        source: hf:ORG/NAME[@REVISION][/FOLDER].

    Returns:
        The folder on this machine, and the same source with the revision that was found.

    Raises:
        InputError: For a source of another form.
        HubError: Where the repository is gated, unknown or unreachable, or has no such folder.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    match = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/(.+?))?/?", source)
    if not match or ".." in (match[3] or "").split("/"):
        raise InputError(f"{source}: give hf:ORG/NAME/FOLDER or hf:ORG/NAME@REVISION/FOLDER")
    repo, revision, folder = match.groups()
    instead = "give the folder that it was saved to"
    online, files = _hub_reachable(), [f"{folder}/*"] if folder else None
    with _hub_errors(repo, instead):
        try:
            found = snapshot_download(repo, revision=revision, allow_patterns=files, local_files_only=not online)
        except LocalEntryNotFoundError as error:  # not cached
            raise HubError(
                f"{repo}: the hub cannot be reached; download it from {page_of(repo)} and {instead}"
            ) from error
    path = Path(found, folder or "")
    if not path.exists():
        raise HubError(f"{repo}: {page_of(repo)} has no folder {folder}")
    return path, f"hf:{repo}@{Path(found).name}" + (f"/{folder}" if folder else "")


@contextmanager
def _hub_errors(repo: str, instead: str) -> Iterator[None]:
    """Turn the client's errors into a HubError of one line."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    page = page_of(repo)
    try:
        yield
    except HubError:
        raise
    except GatedRepoError as error:
        raise HubError(f"{repo}: gated; accept its terms at {page} and set HF_TOKEN, or {instead}") from error
    except RepositoryNotFoundError as error:
        raise HubError(f"{repo}: not on the hub, or not for you; see {page} or {instead}") from error
    except Exception as error:  # the client's and its HTTP library's families change between releases
        raise HubError(f"{repo}: {first_line(error)}; see {page} or {instead}") from error


def _hub_reachable() -> bool:
    """Find out whether the hub answers: asked first, because its client retries for half a minute per file."""
    from largegen.runtime.downloads import reachable

    return reachable(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
