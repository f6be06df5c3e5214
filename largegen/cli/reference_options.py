"""Options that say what an image is made after: a slide or an embedding file, at what resolution, and how tissue is
found.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from largegen.cli import options as shared
from largegen.conditioning.open_reference import ReferenceOptions
from largegen.errors import InputError
from largegen.slides.resolution import Target


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


def _reference_options(
    ref: Path | None, embeddings: Path | None, region_embeddings: Path | None, no_region: bool, **options: Any
) -> ReferenceOptions:
    if (ref is None) == (embeddings is None):
        raise InputError("give --ref SLIDE or --embeddings FILE.h5")
    target = Target(options.get("mag"), options["mpp"], options["gsd"])
    if sum(value is not None for value in (target.mag, target.mpp, target.gsd)) > 1:
        raise InputError("--mag, --mpp, --gsd: give only one of them")
    if embeddings and any(value is not None and value is not False for value in options.values()):
        raise InputError("--embeddings: resolution, tissue filter, encoder and cache are options of --ref only")
    return ReferenceOptions(
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
    return shared.with_options("reference", _options, _reference_options)(function)
