"""`largegen features`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from largegen.cli import common
from largegen.cli import options as shared
from largegen.cli.derived import Fields
from largegen.cli.import_ import refuse_same_names
from largegen.conditioning.open_reference import ReferenceOptions
from largegen.embeddings.options import EmbedOptions
from largegen.models.feature_options import FeatureOptions


def features(
    slides: Annotated[list[Path], typer.Argument(help="Slides, scenes, images or directories.", metavar="SLIDE...")],
    out: Annotated[Path, typer.Option("--out", help="Directory for the files, <level>/<slide>.h5.")],
    *,
    levels: Annotated[
        str, typer.Option(help="Magnifications, with commas between: 20x,5x.", show_default="the finest")
    ] = "",
    model: shared.ModelName = "auto",
    options: FeatureOptions,
    tiles: Annotated[EmbedOptions, Fields("tissue_threshold", "tissue_filter", "workers")],
    format_: shared.Format = "h5",
    recursive: shared.Recursive = False,
    resolution: shared.ResolutionOptions,
    encoder_weights: shared.EncoderWeights = None,
    device: shared.Device = "auto",
    precision: shared.Precision = "auto",
    keep_going: shared.KeepGoing = False,
    overwrite: shared.Overwrite = False,
    json: shared.Json = False,
) -> int:
    """Run `largegen features`; its purpose stands in commands.py.

    A denoiser's activations tell of tissue what an encoder does not [Z]. Each level has a directory of embedding files.
    With several levels there is one of all: a row for each tile of the finest, those of coarser ones repeated to it.
    """
    options.check()
    h5ad = common.wants_h5ad(format_)
    target = resolution.target()
    from largegen.conditioning.features import FeatureExtractor
    from largegen.embeddings.anndata_file import write_anndata
    from largegen.models.model import load_model
    from largegen.slides.find import find_files
    from largegen.slides.slide import open_slide

    names = [name for name in levels.split(",") if name]
    paths = find_files(slides, recursive=recursive, by_products=False)
    refuse_same_names(paths)
    loaded: dict[str, FeatureExtractor] = {}

    def one(path: Path) -> dict[str, Any]:
        chosen = ReferenceOptions(ref=path, source=resolution.source()).choose_model(model)
        if chosen not in loaded:
            network = load_model(chosen, device, precision)
            loaded[chosen] = FeatureExtractor(network, names, options, encoder_weights)
        progress = common.show_progress()
        with open_slide(path, *resolution.source()) as slide:
            files = loaded[chosen].write(slide, out, tiles, target=target, overwrite=overwrite, progress=progress)
        if h5ad:
            files += [write_anndata(file, overwrite) for file in files]
        return {"slide": str(path), "model": chosen, "files": [str(file) for file in files]}

    results = common.one_by_one(paths, one, keep_going, "slide")
    done = [result for result in results if "error" not in result]
    if done:
        common.log.info(
            "block %s, timestep %d, %d draws of noise, %s condition; defaults are what told most in an ablation, see"
            " docs/measurements.md",
            *(options.block, options.timestep, options.noises, options.condition),
        )
    lines = [file for result in done for file in result["files"]]
    common.report({"settings": asdict(options), "slides": results}, "\n".join(lines), json)
    return 0 if len(done) == len(results) else 3
