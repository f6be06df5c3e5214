"""`largegen probe`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from largegen.cli import common
from largegen.cli import options as shared
from largegen.cli.aligned import aligned
from largegen.errors import InputError
from largegen.probing.options import ProbeOptions


def probe(
    features: Annotated[
        list[Path],
        typer.Argument(help="Directories of embedding files, each a set of features; or files.", metavar="FEATURES..."),
    ],
    *,
    labels: Annotated[
        Path,
        typer.Option(help="CSV file with the columns file and label; perhaps row and col of a tile, patient, split."),
    ],
    options: ProbeOptions,
    out: Annotated[Path | None, typer.Option(help="JSON file for the result.")] = None,
    save_directions: Annotated[
        Path | None,
        typer.Option(help="NumPy file (.npz) for the directions from class to class, for `largegen edit --move`."),
    ] = None,
    overwrite: shared.Overwrite = False,
    json: shared.Json = False,
) -> None:
    """Run `largegen probe`; its purpose stands in commands.py.

    Each set is given a linear classifier, nearest neighbours, and for whole slides attention over their tiles (ABMIL).
    They are trained on some patients and measured on the others: AUC, accuracy, balanced accuracy, with intervals.
    """
    options.check()
    from largegen.embeddings.directions import Directions
    from largegen.embeddings.file import EmbeddingFile
    from largegen.probing.directions import directions_between
    from largegen.probing.probe import probe as probe_sets
    from largegen.probing.probe import require_extra
    from largegen.probing.samples import read_bags, read_labels
    from largegen.runtime.files import write_json
    from largegen.runtime.outputs import check_writable
    from largegen.slides.find import find_files

    require_extra()
    for path in filter(None, (out, save_directions)):
        check_writable(path, overwrite)
    single = [path for path in features if not path.is_dir()]
    groups = {str(path): [path] for path in features if path.is_dir()} | ({"files": single} if single else {})
    if not groups:
        raise InputError("no features given")
    if save_directions and len(groups) > 1:
        raise InputError("`save_directions`: directions are of one set of features; give one")
    files = {
        name: [EmbeddingFile(file) for file in find_files(paths, (".h5", ".hdf5"), what="embedding files")]
        for name, paths in groups.items()
    }
    labelled, chosen = read_labels(labels, files)
    sets = [read_bags(name, found, options.tiles, options.seed, labelled.cells) for name, found in chosen.items()]
    about: dict[str, Any] = {
        "labels": str(labels),
        "classes": {name: int((labelled.labels == k).sum()) for k, name in enumerate(labelled.names)},
        "patients": len(set(labelled.patients.tolist())),
        "settings": asdict(options),
        "parts": "cross-validation" if labelled.test is None else "split",
    }
    rows, results = [["features", "numbers", "classifier", "AUC", "accuracy", "balanced accuracy"]], []
    for found in probe_sets(labelled, sets, options):
        results.append(asdict(found))
        figures = [f"{f.value:.3f} ({f.low:.3f}-{f.high:.3f})" for f in found.figures.values()]
        rows.append([found.features, str(found.dim), found.classifier, *figures])
    about["results"] = results
    if save_directions:
        settings = next(iter(chosen.values()))[0].settings
        ways = directions_between(labelled, sets[0], options.unit)
        Directions(ways, settings.encoder, settings.encoder_fingerprint or "").save(save_directions)
    if out:
        write_json(out, about)
    counted = ", ".join(f"{name} {count}" for name, count in about["classes"].items())
    what = "slides" if not any(labelled.cells) else "tiles" if all(labelled.cells) else "slides and tiles"
    text = f"{aligned(rows)}\n\n{len(labelled.slides)} {what} of {about['patients']} patients: {counted}"
    common.report(about, text, json)
