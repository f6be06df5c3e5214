"""Whether an image that is there is what the running job would make: then the job is done, and is not refused."""

import logging
import shlex
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from largegen.images.write import check_output, companions
from largegen.runtime.files import remove_leftovers
from largegen.runtime.lock import lock
from largegen.slides.image_info import ImageInfo, read_provenance

log = logging.getLogger(__name__)

# Flags that change nothing of what a command makes.
OF_NO_WEIGHT = {"--overwrite", "--watch", "--json", "--quiet", "-q", "--verbose", "-v", "-vv", "--keep-going"}


def check_before(path: Path, overwrite: bool, size: tuple[int, int] | None, command: str) -> None:
    """Check an output before the work; one that this command has made may be there: it may be this very job's.

    Raises:
        InputError: As `check_output` does.
        OutputError: Likewise, and where it was made by another command.
    """
    check_output(path, overwrite or _same_command(path, command), size)


def _same_command(path: Path, command: str) -> bool:
    made = (read_provenance(path) or {}).get("command") if path.is_file() else None
    return made is not None and _essence(str(made)) == _essence(command)


def _essence(command: str) -> list[str]:
    try:
        return [word for word in shlex.split(command) if word not in OF_NO_WEIGHT]
    except ValueError:  # cut off
        return [command]


def lock_outputs(
    stack: ExitStack, out: Path, outputs: Mapping[Path, ImageInfo], overwrite: bool, *partials: Path
) -> bool:
    """Lock a job's output, check that all its images can be written, and clear up after killed runs of it.

    Args:
        stack: Holds the lock for as long as it lives.
        out: The output that is locked.
        outputs: All images that belong together, and what each would say of itself; `job` of it tells jobs apart.
        overwrite: Whether they may be replaced.
        partials: Files of the job's progress.

    Returns:
        Whether all of them are there, made by the same job, and nothing is to be done.

    Raises:
        LockedError: While another process makes them.
        OutputError: Where one is there that another job made, or cannot be written.
    """
    stack.enter_context(lock(out))
    done = []
    for path, info in outputs.items():
        mine = path.is_file() and (read_provenance(path) or {}).get("job") == info.provenance["job"]
        place = info.georeference is not None
        check_output(path, overwrite or mine, (info.width, info.height), place)
        beside = companions(path, place)
        done.append(mine and all(one.exists() for one in beside))
        for one in (path, *beside):
            remove_leftovers(one, parts=True)
    for path in partials:
        remove_leftovers(path, parts=True)
    if not all(done) or overwrite:
        return False
    for path in partials:
        path.unlink(missing_ok=True)
    log.info("%s: up to date, kept", out)
    return True
