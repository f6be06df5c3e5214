"""Whether embeddings suit a model, and the encoder that makes those that do."""

import logging
from pathlib import Path

from largegen.embeddings.cohort import differ_much
from largegen.embeddings.file import EmbeddingFile
from largegen.embeddings.settings import EmbeddingSettings
from largegen.errors import EmbeddingFileError
from largegen.models.encoder import STARTER_DIR, EncoderOnDemand, load_encoder
from largegen.models.info import ModelInfo
from largegen.models.model import Model
from largegen.models.tile_encoder import TileEncoder

log = logging.getLogger(__name__)


def encoder_of(model: Model) -> str:
    """Return the name to load a model's encoder by: that of the copy inside its directory, if it has one."""
    own = (model.directory or Path()) / "encoder"
    inside = model.directory is not None and own.is_dir() and own != STARTER_DIR
    return f"local-dir:{own}" if inside else model.info.encoder


def own_encoder(model: Model, weights: Path | None = None) -> TileEncoder:
    """Take the encoder that a model was trained with; its weights wait for tiles where it is known which they are.

    Args:
        model: That is conditioned on what the encoder makes.
        weights: File of the weights, where no hub has them.
    """
    name, known = encoder_of(model), model.info.encoder_fingerprint
    return EncoderOnDemand(name, known, weights, model.device) if known else load_encoder(name, weights, model.device)


def check_embeddings(model: Model, file: EmbeddingFile) -> None:
    """Check that a model can be conditioned on an embedding file.

    Raises:
        EmbeddingFileError: Where dimension, tiles or encoder are not the model's.
    """
    check_settings(model, file.settings, file.path)
    warn_of_resolution(model.info, file.settings, file.path)


def check_settings(model: Model, settings: EmbeddingSettings, path: Path) -> None:
    """Check that a model can be conditioned on embeddings of these settings, which `path` holds or makes.

    Raises:
        EmbeddingFileError: Where dimension, tiles or encoder are not the model's.
    """
    info = model.info
    name = info.name
    if settings.dim != info.embedding_dim:
        raise EmbeddingFileError(
            f"{path}: {settings.dim}-dimensional embeddings of {settings.encoder}, but model {name} needs"
            f" {info.embedding_dim}, of {info.encoder}"
        )
    if settings.tile_px != model.tile_px or settings.overlap_px:
        raise EmbeddingFileError(
            f"{path}: tiles of {settings.tile_px} px with an overlap of {settings.overlap_px} px, but model {name}"
            f" needs {model.tile_px} px without overlap"
        )
    # Converted models and imported files know names only.
    by = "encoder_fingerprint" if info.encoder_fingerprint and settings.encoder_fingerprint else "encoder"
    if getattr(info, by) != getattr(settings, by):
        raise EmbeddingFileError(
            f"{path}: embeddings of {settings.encoder} ({settings.encoder_fingerprint or 'weights unknown'}), but"
            f" model {name} was trained with {info.encoder} ({info.encoder_fingerprint or 'weights unknown'})"
        )


def warn_of_resolution(info: ModelInfo, settings: EmbeddingSettings, path: Path) -> None:
    """Say where tiles, which `path` holds or makes, are not of the size that a model was trained with."""
    for unit, own, found in (
        ("um", info.base_mpp, settings.working_mpp),
        ("m", info.base_gsd, settings.working_gsd),
    ):
        if own and found and differ_much(own, found):
            log.warning(
                "%s: its tiles have %.4g %s/px, but model %s was trained with %.4g %s/px: what it shows will be of the"
                " wrong size",
                *(path, found, unit, info.name, own, unit),
            )
