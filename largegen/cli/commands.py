"""The commands: what the help lists of each, and how it is made of its file when it is called."""

import importlib
import keyword
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import typer


class About(NamedTuple):
    """What the help says of a command; its file need not be read for it."""

    purpose: str
    example: str


# The commands in the order of the work, by stage.
STAGES = {
    "Prepare": {
        "embed": About(
            "Embed the tissue tiles of slides and scenes.", "largegen embed slides/ --out embeddings/ --preview"
        ),
        "features": About(
            "Extract a denoiser's features of slides, at several magnifications.",
            "largegen features slides/ --levels 20x,5x --out features/",
        ),
        "import": About(
            "Import embedding files of ZoomLDM, TRIDENT or CLAM.",
            "largegen import trident/ --out embeddings/ --encoder uni_v1",
        ),
        "encoders": About("List the encoders known by name.", "largegen encoders"),
        "convert": About(
            "Convert a published checkpoint to a model directory.", "largegen convert ZoomLDM/brca --out models/zoomldm"
        ),
    },
    "Train": {
        "train": About(
            "Train a diffusion model conditioned on embeddings.",
            "largegen train embeddings/ --vae runs/vae --out runs/mine",
        ),
        "train-vae": About("Train an autoencoder on tiles of slides.", "largegen train-vae slides/ --out runs/vae"),
        "train-encoder": About(
            "Train a small tile encoder on slides, without labels.", "largegen train-encoder slides/ --out runs/encoder"
        ),
        "distill": About(
            "Distil a model: few steps, and guidance in one call.",
            "largegen distill models/mine --data embeddings/ --out runs/fast",
        ),
        "tune": About(
            "Find the few steps of a model that come nearest to its many.",
            "largegen tune models/mine --data embeddings/",
        ),
        "train-prior": About(
            "Train a prior that invents grids of embeddings.",
            "largegen train-prior embeddings/ --labels labels.csv --out runs/prior",
        ),
    },
    "Generate": {
        "imagine": About(
            "Invent a grid of embeddings, from nothing, a label or a text.",
            "largegen imagine --size 4096 --label kidney --out grid.h5",
        ),
        "generate": About(
            "Generate a large image that is laid out like a reference.",
            "largegen generate --ref slide.svs --size 4096 --out image.tif",
        ),
        "zoom": About(
            "Generate a large image under a low-magnification guide.",
            "largegen zoom --ref slide.svs --size 4096 --out image.tif",
        ),
        "upscale": About(
            "Enlarge an image to the finest magnification that a model knows.",
            "largegen upscale patch.png --mag 5 --to 20 --out image.tif",
        ),
        "edit": About(
            "Make a part of an image anew and keep the rest.",
            "largegen edit slide.tif --mask 4096,2048,1024,1024 --out edited.tif",
        ),
        "grow": About(
            "Go on with an image beyond its borders.", "largegen grow image.tif --size 8192 --out larger.tif"
        ),
        "augment": About(
            "Vary labelled images, for the training of classifiers.",
            "largegen augment labels.csv --out augmented/ --per-image 4 --mix 0.3",
        ),
        "sample": About(
            "Sample single patches, as a contact sheet.", "largegen sample --ref slide.svs --mag 5 --out sheet.png"
        ),
    },
    "Evaluate": {
        "eval": About(
            "Measure generated images against real ones.",
            "largegen eval --real slide.svs --fake image.tif --report report.html",
        ),
        "probe": About(
            "Measure how well classifiers tell labels from features.",
            "largegen probe embeddings/uni/ embeddings/mine/ --labels labels.csv",
        ),
        "view": About(
            "Look at slides and results in a browser: deep zoom, side by side, layers.",
            "largegen view image.tif --ref slide.svs",
        ),
        "status": About("Show which of many jobs are done, running or failed.", "largegen status images/"),
        "info": About("Describe an input or output: size, resolution, provenance.", "largegen info image.tif"),
    },
}
OF_MANY_JOBS = ("embed", "generate", "zoom", "upscale", "edit", "grow")
OF_SEVERAL_PROCESSES = ("generate",)
COMMANDS = {name: stage for stage, names in STAGES.items() for name in names}


class Commands(Mapping[str, Any]):
    """The commands by name, each made when it is asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = _make(name, COMMANDS[name])
        return self._made[name]


def _make(name: str, stage: str) -> Any:
    from largegen.cli.common import with_common_options
    from largegen.cli.derived import with_derived_options

    stem = name.replace("-", "_") + "_" * keyword.iskeyword(name)
    module = importlib.import_module(f"largegen.cli.{stem}")
    function, about = getattr(module, stem), STAGES[stage][name]
    _, _, details = (function.__doc__ or "").partition("\n\n")
    command = with_derived_options(function)
    if name in OF_MANY_JOBS:
        from largegen.cli.jobs import with_jobs

        command = with_jobs(command)
    if name in OF_SEVERAL_PROCESSES:
        from largegen.cli.processes import with_processes

        command = with_processes(command)
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(
        name,
        cls=module.EvalCommand if name == "eval" else None,
        rich_help_panel=stage,
        help=f"{about.purpose}\n\n{details}",
        epilog=f"\b\nExample:\n  {about.example}",
    )(with_common_options(command))
    return typer.main.get_command(app)


class Group(typer.core.TyperGroup):
    """The commands, listed by stage: as rich would in panels, but in plain text and without reading their files."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**{**attributes, "commands": Commands()})

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section of the help for each stage."""
        for stage, commands in STAGES.items():
            with formatter.section(stage):
                rows = [(name, about.purpose) for name, about in commands.items()]
                formatter.write_dl(rows, col_max=max(map(len, COMMANDS)), col_spacing=2)
