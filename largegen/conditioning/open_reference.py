"""A reference from a request: which slide or embedding file, at what resolution, and how tissue is found."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from largegen.slides.resolution import Target

if TYPE_CHECKING:
    from largegen.conditioning.reference import Reference
    from largegen.models.model import Model


@dataclass(frozen=True)
class ReferenceOptions:
    """A reference, as the command line asks for it."""

    ref: Path | None
    embeddings: Path | None
    target: Target
    source: tuple[float | None, float | None, float | None]  # mpp, magnification and gsd that metadata lack
    tissue_threshold: float | None
    tissue_filter: bool
    encoder_weights: Path | None
    cache: Path | None
    region_encoder_weights: Path | None
    region_embeddings: Path | None
    no_region: bool

    @property
    def name(self) -> str:
        """Of the slide, for the output."""
        return (self.ref or self.embeddings).stem.removesuffix(".ome")

    def open(self, stack: ExitStack, model: "Model", progress: bool = False) -> "Reference":
        """The reference for a model; the slide is open as long as `stack`."""
        from largegen.conditioning.reference import file_reference, slide_reference
        from largegen.conditioning.region_context import (
            WEIGHTS_OPTION,
            check_region_choice,
            context_from_file,
            context_from_slide,
            with_region_context,
        )
        from largegen.slides.slide import open_slide

        given, weights = self.region_embeddings, self.region_encoder_weights
        chosen = {"--region-embeddings": given, WEIGHTS_OPTION: weights, "--no-region": self.no_region}
        check_region_choice(model, [option for option, value in chosen.items() if value], self.ref is not None)
        found = context_from_file(model, given) if given else None
        if self.ref is None:
            reference = file_reference(model, self.embeddings)
            return with_region_context(reference, found) if found else reference
        slide = stack.enter_context(open_slide(self.ref, *self.source))
        target = self.target
        if target == Target(None, None, None) and model.mpp and slide.kind != "scene":
            target = Target(round(10 / model.mpp), None, None)  # the model's own magnification
        how = {
            "downsample": target.downsample(slide),
            "tissue_threshold": self.tissue_threshold,
            "tissue_filter": self.tissue_filter,
            "cache": self.cache,
            "progress": progress,
        }
        mag = target.magnification(slide)
        reference = slide_reference(model, slide, mag=mag, encoder_weights=self.encoder_weights, **how)
        if model.region_dim and not self.no_region:
            found = found or context_from_slide(model, slide, encoder_weights=weights, **how)
        return with_region_context(reference, found) if found else reference
