"""Remarks on files, each said once, however often a file is opened."""

import logging
from functools import cache

log = logging.getLogger("largegen")


@cache
def say_once(text: str) -> None:
    """Log a remark, unless this process has logged it already."""
    log.info("%s", text)
