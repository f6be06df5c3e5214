"""Options that say what a picture is made after: a slide or an embedding file, at what resolution, and how tissue is
found."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from largegen.cli import options as shared
from largegen.errors import InputError

if TYPE_CHECKING:
    from largegen.model import Model
    from largegen.reference import Reference


@dataclass(frozen=True)
class Choice:
    """A reference, as the command line asks for it."""

    ref: Path | None
    embeddings: Path | None
    target: shared.Target
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

    def open(self, stack: ExitStack, model: "Model") -> "Reference":
        """The reference for a model; the slide is open as long as `stack`."""
        from largegen.reference import file_reference, slide_reference
        from largegen.slide import open_slide
        from largegen.surroundings import (
            WEIGHTS_OPTION,
            check_region_choice,
            surroundings_of_file,
            surroundings_of_slide,
            with_surroundings,
        )

        given, weights = self.region_embeddings, self.region_encoder_weights
        chosen = {"--region-embeddings": given, WEIGHTS_OPTION: weights, "--no-region": self.no_region}
        check_region_choice(model, [option for option, value in chosen.items() if value], self.ref is not None)
        found = surroundings_of_file(model, given) if given else None
        if self.ref is None:
            reference = file_reference(model, self.embeddings)
            return with_surroundings(reference, found) if found else reference
        slide = stack.enter_context(open_slide(self.ref, *self.source))
        target = self.target
        if target == shared.Target(None, None, None) and model.mpp and slide.kind != "scene":
            target = shared.Target(round(10 / model.mpp), None, None)  # the model's own magnification
        how = {
            "downsample": target.downsample(slide),
            "tissue_threshold": self.tissue_threshold,
            "tissue_filter": self.tissue_filter,
            "cache": self.cache,
            "progress": shared.show_progress(),
        }
        mag = target.magnification(slide)
        reference = slide_reference(model, slide, mag=mag, encoder_weights=self.encoder_weights, **how)
        if model.region_dim and not self.no_region:
            found = found or surroundings_of_slide(model, slide, encoder_weights=weights, **how)
        return with_surroundings(reference, found) if found else reference


def _options(
    ref: Annotated[Path | None, typer.Option(help="Reference slide or scene; the tiles it needs are embedded.")] = None,
    embeddings: Annotated[Path | None, typer.Option(help="Embedding file to use in place of --ref.")] = None,
    mag: shared.Mag = None,
    mpp: shared.Mpp = None,
    gsd: shared.Gsd = None,
    source_mpp: shared.SourceMpp = None,
    source_mag: shared.SourceMag = None,
    source_gsd: shared.SourceGsd = None,
    tissue_threshold: shared.TissueThreshold = None,
    no_tissue_filter: shared.NoTissueFilter = False,
    encoder_weights: shared.EncoderWeights = None,
    region_encoder_weights: Annotated[
        Path | None,
        typer.Option(help="The same of the region encoder, for a model that takes the regions around the tiles."),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Directory of embedded regions.", show_default="~/.cache/largegen")
    ] = None,
    region_embeddings: Annotated[
        Path | None,
        typer.Option(help="Embedding file of the regions around the tiles (5x for 20x), for a model that takes them."),
    ] = None,
    no_region: Annotated[
        bool, typer.Option("--no-region", help="Do without, for a model that takes them: they count as zero.")
    ] = False,
) -> None:
    """The reference's options."""


def _choice(
    ref: Path | None, embeddings: Path | None, region_embeddings: Path | None, no_region: bool, **options: Any
) -> Choice:
    if (ref is None) == (embeddings is None):
        raise InputError("give --ref SLIDE or --embeddings FILE.h5")
    target = shared.Target(options.get("mag"), options["mpp"], options["gsd"])
    if sum(value is not None for value in (target.mag, target.mpp, target.gsd)) > 1:
        raise InputError("--mag, --mpp, --gsd: give only one of them")
    if embeddings and any(value is not None and value is not False for value in options.values()):
        raise InputError("--embeddings: resolution, tissue filter, encoder and cache are options of --ref only")
    return Choice(
        ref=ref,
        embeddings=embeddings,
        target=target,
        source=(options["source_mpp"], options["source_mag"], options["source_gsd"]),
        tissue_threshold=options["tissue_threshold"],
        tissue_filter=not options["no_tissue_filter"],
        encoder_weights=options["encoder_weights"],
        region_encoder_weights=options["region_encoder_weights"],
        cache=options["cache"],
        region_embeddings=region_embeddings,
        no_region=no_region,
    )


def with_reference_options(function: Callable) -> Callable:
    """Give a command the reference's options as one argument `reference: Choice`; its own win over one of them."""
    return shared.with_options("reference", _options, _choice)(function)
