"""Options for the reference: a slide or an embedding file, its resolution, and how tissue is found."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from largegen.cli import options as shared
from largegen.cli.one_job import kept
from largegen.conditioning.open_reference import ReferenceOptions
from largegen.embeddings.options import TISSUE_FILTER, TISSUE_THRESHOLD
from largegen.errors import InputError
from largegen.sampling.settings import Imagining

if TYPE_CHECKING:
    from largegen.models.model import Model
    from largegen.sampling.imagined import ImaginedOptions
    from largegen.slides.resolution import Resolution


@dataclass(frozen=True)
class Reference(shared.ResolutionOptions):
    """The reference, as the command line asks for it."""

    ref: Annotated[Path | None, typer.Option(help="Reference slide or scene; the tiles it needs are embedded.")] = None
    embeddings: Annotated[Path | None, typer.Option(help="Embedding file to use instead of --ref.")] = None
    tissue_threshold: Annotated[float | None, TISSUE_THRESHOLD] = None
    tissue_filter: Annotated[bool, TISSUE_FILTER] = True
    encoder_weights: shared.EncoderWeights = None
    region_encoder_weights: Annotated[
        Path | None,
        typer.Option(help="The same for the region encoder, for a model conditioned on the regions around the tiles."),
    ] = None
    cache: Annotated[
        Path | None, typer.Option(help="Directory where embedded regions are kept.", show_default="~/.cache/largegen")
    ] = None
    region_embeddings: Annotated[
        Path | None,
        typer.Option(
            help="Embedding file of the regions around the tiles (5x for 20x), for a model conditioned on them."
        ),
    ] = None
    no_region: Annotated[
        bool,
        typer.Option("--no-region", help="Set the regions around the tiles to zero, for a model conditioned on them."),
    ] = False

    def choose(
        self,
        imagining: Imagining,
        seed: int,
        size: tuple[int, int] | None,
        corner: tuple[int, int] | None = None,
        outline: bool = False,
    ) -> "ReferenceOptions | ImaginedOptions":
        """Choose between the reference, where one is given, and one that is sampled from a prior.

        `outline`: see ImaginedOptions.

        Raises:
            InputError: options of both are given, or those of the reference do not go together.
        """
        if self.ref or self.embeddings:
            if imagining != Imagining():
                raise InputError("`label`, `prompt` and `prior` are for images without `ref` or `embeddings`")
            return replace(self.check(), corner=corner)
        if self != Reference():
            raise InputError("give `ref=SLIDE` or `embeddings=FILE.h5`; the options of a reference are for those only")
        if size is None:
            raise InputError("`size` full: means all of a reference; without one, give N or WxH")
        from largegen.sampling.imagined import ImaginedOptions

        return ImaginedOptions(imagining, seed, size, outline)

    def check(self) -> ReferenceOptions:
        """Check that the options go together.

        Raises:
            InputError: neither or both of slide and embedding file are given, several resolutions, or with an embedding
                file what only a slide has.
        """
        if (self.ref is None) == (self.embeddings is None):
            raise InputError("give `ref=SLIDE` or `embeddings=FILE.h5`")
        target = self.target()
        with_both = ("ref", "embeddings", "region_embeddings", "no_region")
        of_slides = [f for f in fields(self) if f.name not in with_both]
        if self.embeddings and any(getattr(self, f.name) != f.default for f in of_slides):
            raise InputError("`embeddings`: resolution, tissue filter, encoder and cache are options of `ref` only")
        return ReferenceOptions(
            ref=self.ref,
            embeddings=self.embeddings,
            target=target,
            source=self.source(),
            tissue_threshold=self.tissue_threshold,
            tissue_filter=self.tissue_filter,
            encoder_weights=self.encoder_weights,
            region_encoder_weights=self.region_encoder_weights,
            cache=self.cache,
            region_embeddings=self.region_embeddings,
            no_region=self.no_region,
        )


def load_for(image: Path, source: "Resolution", model: str, device: str, precision: str) -> "Model":
    """Load the model that is asked for, or that suits an image, for a command that runs in one process.

    Raises:
        InputError: the image cannot be read, there are several processes, or the options do not go together.
        ModelError: the model cannot be loaded.
    """
    from largegen.models.model import load_model
    from largegen.runtime.distributed import require_single_process

    network = kept(load_model, ReferenceOptions(ref=image, source=source).choose_model(model), device, precision)
    require_single_process(network.device)
    return network
