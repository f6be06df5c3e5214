"""The error family: each error is one line that says what, where and what to do; the CLI maps it to an exit code."""


def first_line(error: Exception) -> str:
    """Cut the message of another library's error to one line; give its type if it has no message."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def message(error: Exception) -> str:
    """Put an error into a line as this package's are: what, and why."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


class LargegenError(Exception):
    """Base of every error this package raises on purpose. `exit_code` is what the command line returns."""

    exit_code = 1


class InputError(LargegenError, ValueError):
    """Wrong usage or an input that cannot be used: a bad option, file or combination (exit code 2)."""

    exit_code = 2


class SlideError(InputError):
    """A slide or scene cannot be opened or read, or lacks a property that the job needs."""


class UnreadablePixels(SlideError):
    """The header is sound but the pixels are not: unknown compression, truncated or damaged file."""


class EmbeddingFileError(InputError):
    """An embedding file is damaged, incomplete, or does not belong to its slide or model."""


class ModelError(InputError):
    """A model directory or weight file is missing, damaged, or of the wrong shape."""


class HubError(LargegenError, OSError):
    """Weights cannot be had from a model hub: gated, unknown or unreachable."""


class OutputError(LargegenError, OSError):
    """An output cannot be written: exists already, no permission, no space."""


class LockedError(OutputError):
    """Another live process is writing the same output."""


class TrainingError(LargegenError, ArithmeticError):
    """Training cannot continue: a NaN or infinite loss."""


def no_space(error: Exception) -> bool:
    """Tell whether a C library failed because a disk is full: that of its temporary files, where it only reads."""
    return "No space left" in str(error)


def telling_line(error: Exception) -> str:
    """Find the first informative line of a C library's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith("unable to ")]
    return (telling or lines or [type(error).__name__])[0].removeprefix("VipsForeignLoad: ")
