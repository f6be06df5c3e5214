"""Which evaluation made a file, so that the same one may be run again after a kill."""

import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from largegen.runtime.fingerprints import content_digest

if TYPE_CHECKING:
    from largegen.metrics.request import EvaluationConfig, SetsRequest

OF_NO_WEIGHT = ("device", "workers", "batch_size")  # settings on which no figure depends
BESIDE = (".html", ".npz", ".json", ".lock")  # what evaluations and images leave among images
HEAD_BYTES = 2**14  # of a report, in which its job stands


def evaluation_job(request: "SetsRequest", config: "EvaluationConfig") -> str:
    """Tell apart evaluations by their settings, and by name, size and time of all files that they are given."""
    settings = {name: value for name, value in asdict(config).items() if name not in OF_NO_WEIGHT}
    given = [*request.real, *request.fake, request.pairs]
    given += [config.encoder_weights, config.inception_weights, config.clip_weights]
    files = [(str(path), *_state(path)) for one in given if one for path in _files(Path(one))]
    return content_digest([json.dumps([asdict(request), settings, files], default=str).encode()], ())[:32]


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (one for one in sorted(path.rglob("*")) if not one.name.startswith(".") and one.suffix not in BESIDE)
    else:
        yield path


def _state(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return (found.st_size, found.st_mtime_ns) if path.is_file() else (0, 0)


def job_in(path: Path) -> str | None:
    """Read which evaluation made a report or a file of statistics; None where it does not say."""
    try:
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return str(file["job"])
        with path.open("rb") as report:
            found = re.search(rb'<meta name="largegen-job" content="([0-9a-f]+)">', report.read(HEAD_BYTES))
        return found[1].decode() if found else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
