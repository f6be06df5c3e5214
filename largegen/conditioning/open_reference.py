"""A reference from a request: which slide or embedding file, at what resolution, and how tissue is found.

A further kind of reference, such as a grid of embeddings sampled from a prior, is one more field of the request and one
more branch of `ReferenceOptions.open`.
"""

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from largegen.errors import InputError
from largegen.slides.resolution import UNKNOWN, Resolution, mag_of

if TYPE_CHECKING:
    from largegen.conditioning.reference import Reference, SlideOnDemand
    from largegen.models.model import Model
    from largegen.slides.slide import Slide


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReferenceOptions:
    """A request for a reference: a slide, or an embedding file."""

    ref: Path | None = None  # slide or scene whose tiles are embedded
    embeddings: Path | None = None  # embedding file, in place of `ref`
    target: Resolution = UNKNOWN  # of the image; by default the model's own
    source: Resolution = UNKNOWN  # of level 0, where the metadata lack it
    tissue_threshold: float | None = None  # saturation in [0, 1]; None: Otsu's
    tissue_filter: bool = True  # False: all tiles count as tissue
    encoder_weights: Path | None = None  # file, where no hub has the encoder's weights
    cache: Path | None = None  # directory of embedded rectangles; None: the user's cache folder
    region_encoder_weights: Path | None = None  # as `encoder_weights`, of the region encoder
    region_embeddings: Path | None = None  # embedding file of the regions around the tiles
    no_region: bool = False  # regions' embeddings count as zero
    corner: tuple[int, int] | None = None  # level-0 corner of the image, at which a slide's tile grid has a tile begin

    def __post_init__(self) -> None:
        """Check that there is one reference.

        Raises:
            InputError: For none, and for two.
        """
        if (self.ref is None) == (self.embeddings is None):
            raise InputError("give `ref` SLIDE or `embeddings` FILE.h5")

    @property
    def name(self) -> str:
        """Name of the slide or file, for the output."""
        return Path(self.ref or self.embeddings or "").stem.removesuffix(".ome")

    def choose_model(self, name: str) -> str:
        """Name the model: for `auto` the bundled one that suits the reference, tissue, or aerial for scenes.

        Raises:
            InputError: Where the reference cannot be read.
        """
        if name != "auto":
            return name
        chosen = "aerial" if self._kind() == "scene" else "tissue"
        log.info("model: %s, as the reference is %s", chosen, "a scene" if chosen == "aerial" else "no scene")
        return chosen

    def _kind(self) -> str:
        from largegen.embeddings.file import EmbeddingFile
        from largegen.slides.slide import open_slide

        if self.embeddings is not None:
            return EmbeddingFile(self.embeddings).settings.source_kind
        with open_slide(self.ref or Path(), *self.source) as slide:
            return str(slide.kind)

    def open(self, stack: ExitStack, model: "Model", progress: bool = False) -> "Reference":
        """Open the reference for a model.

        Args:
            stack: Keeps the slide open.
            model: The model to condition.
            progress: Show progress bars while tiles are embedded.

        Raises:
            InputError: Where the request does not suit the model or the slide.
            EmbeddingFileError: For an embedding file that does not suit the model.
        """
        from largegen.conditioning.reference import file_reference, slide_reference
        from largegen.conditioning.region_context import (
            check_region_choice,
            context_from_file,
            context_from_slide,
            with_region_context,
        )

        ways = ("region_embeddings", "region_encoder_weights", "no_region")
        check_region_choice(model, [way for way in ways if getattr(self, way)], self.ref is not None)
        context = context_from_file(model, self.region_embeddings) if self.region_embeddings else None
        if self.embeddings is not None:
            reference = file_reference(model, self.embeddings)
        else:
            source = self._slide(stack, model, progress)
            reference = slide_reference(model, source, self.encoder_weights)
            if model.region_dim and not self.no_region:
                context = context or context_from_slide(model, source, self.region_encoder_weights)
        return with_region_context(reference, context) if context else reference

    def _slide(self, stack: ExitStack, model: "Model", progress: bool) -> "SlideOnDemand":
        """Open the slide at the resolution asked for, by default the model's own."""
        from largegen.conditioning.reference import SlideOnDemand
        from largegen.embeddings.options import EmbedOptions
        from largegen.slides.slide import open_slide
        from largegen.slides.tiles import grid_through

        slide = stack.enter_context(open_slide(self.ref or Path(), *self.source))
        target = own_resolution(model, slide, self.target)
        downsample = target.downsample(slide)
        grid_xy = grid_through(self.corner, model.tile_px * downsample) if self.corner else (0, 0)
        return SlideOnDemand(
            slide,
            downsample=downsample,
            options=EmbedOptions(
                tile_px=model.tile_px,
                tissue_threshold=self.tissue_threshold,
                tissue_filter=self.tissue_filter,
                grid_xy=grid_xy if any(grid_xy) else None,
            ),
            mag=target.magnification(slide),
            cache=self.cache,
            progress=progress,
        )


def own_resolution(model: "Model", slide: "Slide", target: Resolution) -> Resolution:
    """Return the resolution asked for; where none is, a model's own, for slides."""
    if target == UNKNOWN and model.mpp and slide.kind != "scene":
        return Resolution(mag=round(mag_of(model.mpp)))
    return target
