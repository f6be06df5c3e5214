"""`largegen augment`."""

from pathlib import Path
from typing import Annotated, Any

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
    is done is kept: `largegen status` shows how far it is. At the end all are compared with what they could repeat.
    """
    options.check()
    sampling.check()
    target = resolution.target()
    from largegen.augmenting.augment import Augmenter
    from largegen.augmenting.items import read_items

    items, held_out = read_items(labels)
    network = load_for(items[0].path, resolution.source(), model, device, precision)
    augmenter = Augmenter(
        items,
        out,
        network,
        options,
        sampling,
        held_out=held_out,
        source=resolution.source(),
        target=target,
        encoder_weights=encoder_weights,
        command=common.command_line(),
    )
    records, found = augmenter.run(keep_going=keep_going, overwrite=overwrite, progress=common.show_progress())
    counts = {
        state: sum(record.state == state for record in records) for state in ("done", "failed", "waiting", "running")
    }
    report = {"out": str(out), "images": len(items), "variations": len(records), **counts}
    lines = [f"{out}: {counts['done']} of {len(records)} variations of {len(items)} images", *_compared(found)]
    common.report(report | ({"compared": found} if found else {}), "\n".join(lines), json)
    for record in records:
        if record.state == "failed":
            common.log.error("%s: %s", out / record.output, record.error)
    return 3 if counts["failed"] else 0


def _compared(found: dict[str, Any]) -> list[str]:
    """Put what comparisons found into lines."""
    if not found:
        return []
    lines = [
        f"nearest tile of train: of their own image for {found['nearest_to_their_own_image']} of {found['compared']};"
        f" cosine similarity {found['mean_similarity']:.3f} on average"
    ]
    if found["compared_with_held_out"]:
        first = f", {found['nearer_first']} first" if found["nearer_first"] else ""
        lines.append(
            f"nearer to an image that is not in train: {found['nearer_to_a_held_out_image']} of"
            f" {found['compared_with_held_out']}{first}"
        )
    if found["st_lpips"] is not None:
        classes = found["st_lpips_between_images"]
        beside = "" if classes is None else f", {classes:.3f} between images of one class"
        lines.append(f"unlikeness (ST-LPIPS): {found['st_lpips']:.3f} between variations of one image{beside}")
    return lines
