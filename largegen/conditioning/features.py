"""The features of a slide, as a model's denoiser sees it, at one magnification or several [Z]."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from largegen.conditioning.open_reference import own_resolution
from largegen.conditioning.suitable import encoder_of
from largegen.embeddings.embed import embed_slide, plan_tiles
from largegen.embeddings.levels import coarser, join_levels
from largegen.embeddings.options import EmbedOptions
from largegen.errors import InputError
from largegen.models.denoiser_features import DenoiserFeatures
from largegen.models.encoder import Encoder, load_encoder
from largegen.models.feature_options import FeatureOptions
from largegen.models.model import Model
from largegen.slides.resolution import Resolution
from largegen.slides.slide import Slide

BATCH_TILES = 32  # base tiles at once; of a coarser level fewer


class FeatureExtractor:
    """Writes the features of slides.

    Args:
        model: Whose denoiser.
        levels: Names of magnifications, such as 20x and 5x; none: the finest.
        options: Which activations.
        encoder_weights: File of the weights of the model's encoder, where no hub has them.

    Raises:
        InputError: For a level or a block that the model does not have.
    """

    def __init__(
        self,
        model: Model,
        levels: Sequence[str] = (),
        options: FeatureOptions | None = None,
        encoder_weights: Path | None = None,
    ) -> None:
        self.model, self._weights = model, encoder_weights
        options = options or FeatureOptions()
        encoder = self._encoder if options.condition == "own" else None
        numbers = sorted({level_number(model, name) for name in levels} or {0})
        self.extractors = [DenoiserFeatures(model, level, options, encoder) for level in numbers]

    @cached_property
    def _encoder(self) -> Encoder:
        return load_encoder(encoder_of(self.model), self._weights, self.model.device)

    def write(
        self,
        slide: Slide,
        out: Path,
        tiles: EmbedOptions | None = None,
        *,
        target: Resolution,
        overwrite: bool = False,
        progress: bool = True,
    ) -> list[Path]:
        """Write `<out>/<level>/<slide>.h5` for each level, and of several `<out>/<level>+<level>/<slide>.h5`.

        The files are embedding files: those of a coarser level have larger tiles, of the same resolution. That of
        several levels has a row for each tile of the finest. Complete files are kept, interrupted ones resumed.

        Args:
            slide: An open one.
            out: Directory.
            tiles: Tissue filter and reading threads.
            target: Resolution; unknown: the model's own.
            overwrite: Replace files made with other settings.
            progress: Show a progress bar.

        Raises:
            As `embed_slide`.
        """
        model = self.model
        target = own_resolution(model, slide, target)
        options = replace(tiles or EmbedOptions(), tile_px=model.tile_px, overlap_px=0)
        downsample = target.downsample(slide)
        base = plan_tiles(slide, downsample, options)
        paths, names = [], []
        for extractor in self.extractors:
            size = {"tile_px": model.tile_px * extractor.side, "batch_size": max(1, BATCH_TILES // extractor.side**2)}
            names.append(model.level_names[extractor.level])
            path = embed_slide(
                slide,
                extractor,
                out / names[-1],
                replace(options, **size),
                downsample=downsample,
                mag=target.magnification(slide),
                plan=coarser(*base, extractor.level),
                overwrite=overwrite,
                progress=progress,
            )
            paths.append(path)
        if len(paths) > 1:
            paths.append(join_levels(paths, out / "+".join(names) / paths[0].name, overwrite=overwrite))
        return paths


def level_number(model: Model, name: str) -> int:
    """Find a level by its name, such as 5x. Raises InputError for one that the model does not have."""
    wanted = name.strip().lower().removesuffix("x") + "x"
    if wanted not in model.level_names:
        raise InputError(f"`levels` {name}: model {model.info.name} has {', '.join(model.level_names)}")
    return model.level_names.index(wanted)
