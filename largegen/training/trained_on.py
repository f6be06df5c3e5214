"""What a model says of itself after a training on embedding files."""

from collections.abc import Sequence

from largegen.embeddings.file import EmbeddingFile
from largegen.embeddings.settings import EmbeddingSettings
from largegen.models.info import ModelInfo, TrainingSlide
from largegen.version import __version__


def info_of(files: Sequence[EmbeddingFile], settings: EmbeddingSettings, name: str, licence: str) -> ModelInfo:
    """Say what travels with weights that were trained on embeddings.

    Args:
        files: The embeddings.
        settings: That they share, as `check_together` gives them.
        name: Of the model.
        licence: Of its weights.
    """
    slides = (TrainingSlide(s.source_name, f.count, s.working_mpp, s.working_gsd) for f in files for s in [f.settings])
    return ModelInfo(
        name=name,
        largegen_version=__version__,
        encoder=settings.encoder,
        encoder_fingerprint=settings.encoder_fingerprint,
        encoder_licence=settings.encoder_licence,
        licence=licence,
        embedding_dim=settings.dim,
        tile_px=settings.tile_px,
        trained_on=tuple(slides),
    )
