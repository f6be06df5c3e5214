"""The slide that an embedding file was made from."""

from pathlib import Path

from largegen.embeddings.file import EmbeddingFile
from largegen.errors import EmbeddingFileError, InputError
from largegen.slides.slide import Slide, open_slide


def slide_path_of(path: Path) -> Path:
    """Find the slide that an embedding file was made from: where it was, or beside the file.

    Raises:
        InputError: Where it is in neither place.
        EmbeddingFileError: Where it is not the file that was embedded.
    """
    file = EmbeddingFile(path)
    recorded = Path(file.settings.source_path)
    beside = path.with_name(recorded.name)
    if not recorded.exists() and not beside.exists():
        raise InputError(f"{path}: its slide {recorded} is not there, nor beside the file; give the slide itself")
    with find_slide(file, None if recorded.exists() else beside) as slide:
        return Path(slide.path)


def find_slide(file: EmbeddingFile, slides: Path | None = None) -> Slide:
    """Open the slide that an embedding file was made from.

    Args:
        file: The embedding file.
        slides: The slide, or the directory it is in; None: where it was.

    Raises:
        EmbeddingFileError: Where it is not found or is not the file that was embedded.
    """
    settings = file.settings
    path = Path(settings.source_path)
    if slides is not None:
        path = slides if slides.is_file() else slides / path.name
    if not path.exists():
        raise EmbeddingFileError(f"{file.path}: its slide {path} is not there; say where with `slides` DIR")
    slide = open_slide(path)
    made_from = (settings.source_width, settings.source_height, settings.source_bytes)
    found = (slide.width, slide.height, path.stat().st_size)
    if made_from != found:
        described = "made from a slide of {}x{} px in {} bytes".format(*made_from)
        raise EmbeddingFileError(
            f"{file.path}: {described}, but {path} has {'{}x{} px in {}'.format(*found)}; embed it again"
        )
    return slide
