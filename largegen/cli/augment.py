"""`largegen augment`."""

from pathlib import Path
from typing import Annotated

import typer

from largegen.augmenting.options import AugmentOptions
from largegen.cli import common
from largegen.cli import options as shared
from largegen.cli.derived import Fields
from largegen.cli.reference_options import load_for
from largegen.sampling.settings import Sampling


def augment(
    labels: Annotated[
        Path,
        typer.Argument(
            help="CSV file with the columns file and label, perhaps split and patient; or a directory with a folder for"
            " each class.",
            metavar="LABELS",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Directory: train/<label>/, embeddings/ and labels.csv.")],
    *,
    options: AugmentOptions,
    model: shared.ModelName = "auto",
    sampling: Annotated[Sampling, Fields("steps", "guidance", "scheduler", "batch_size", "seed")],
    resolution: shared.ResolutionOptions,
    encoder_weights: shared.EncoderWeights = None,
    device: shared.Device = "auto",
    precision: shared.Precision = "auto",
    keep_going: shared.KeepGoing = False,
    overwrite: shared.Overwrite = False,
    json: shared.Json = False,
) -> int:
    """Run `largegen augment`; its purpose stands in commands.py.

    Each variation is made of the image's own embeddings, with noise of its own; mixed with another image of its class,
    or in another stain, if asked for. What is not in train is never varied. Several processes share the work, and what
    is done is kept: `largegen status` shows how far it is.
    """
    options.check()
    sampling.check()
    target = resolution.target()
    from largegen.augmenting.augment import Augmenter
    from largegen.augmenting.items import read_items

    items = read_items(labels)
    network = load_for(items[0].path, resolution.source(), model, device, precision)
    augmenter = Augmenter(
        items,
        out,
        network,
        options,
        sampling,
        source=resolution.source(),
        target=target,
        encoder_weights=encoder_weights,
        command=common.command_line(),
    )
    records = augmenter.run(keep_going=keep_going, overwrite=overwrite, progress=common.show_progress())
    counts = {
        state: sum(record.state == state for record in records) for state in ("done", "failed", "waiting", "running")
    }
    report = {"out": str(out), "images": len(items), "variations": len(records), **counts}
    common.report(report, f"{out}: {counts['done']} of {len(records)} variations of {len(items)} images", json)
    for record in records:
        if record.state == "failed":
            common.log.error("%s: %s", out / record.output, record.error)
    return 3 if counts["failed"] else 0
