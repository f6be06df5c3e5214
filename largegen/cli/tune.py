"""`largegen tune`."""

from pathlib import Path
from typing import Annotated

import typer

from largegen.cli import common
from largegen.cli import options as shared
from largegen.cli.derived import Fields
from largegen.sampling.settings import Sampling


def tune(
    model: Annotated[str, typer.Argument(help="A bundled model's name, a model or run directory.")],
    *,
    data: Annotated[
        list[Path], typer.Option(help="Embedding files (.h5) or directories of them, of images like those to be made.")
    ],
    samples: Annotated[int, typer.Option(min=2, help="Patches that are compared.")] = 16,
    sampling: Annotated[Sampling, Fields("guidance", "seed")] = Sampling(),
    device: shared.Device = "auto",
    precision: shared.Precision = "auto",
    json: shared.Json = False,
) -> None:
    """Run `largegen tune`; its purpose stands in commands.py.

    Finds the timesteps, the part of them that needs guidance, and a rescaling of guided noise, by which 8 to 12 steps
    come as near to the model's own 50 as can be, at equal seeds. They go to tuned.json in the model's directory, and
    --steps auto takes them there.
    """
    sampling.check()
    from largegen.embeddings.cohort import find_embeddings
    from largegen.embeddings.file import EmbeddingFile
    from largegen.models.model import load_model
    from largegen.runtime.distributed import require_single_process
    from largegen.runtime.files import write_errors
    from largegen.training.prepare_distillation import check_embeddings
    from largegen.training.tune import report, some_contexts
    from largegen.training.tune import tune as search

    network = load_model(model, device, precision)
    require_single_process(network.device)
    files = [EmbeddingFile(path) for path in find_embeddings(tuple(data), recursive=False)]
    check_embeddings(network, files)
    contexts = some_contexts(network, (file.features() for file in files), samples, sampling.seed)
    found = search(network, contexts, sampling.guidance, sampling.seed, common.show_progress())
    assert network.directory is not None, "it was loaded from there"
    with write_errors(network.directory):
        found.save(network.directory)
    about = report(found)
    done = "{}: {} steps, {} calls, at a distance of {:.4g} from 50 steps (20 even steps: {:.4g})"
    numbers = len(found.timesteps), about["calls"], found.distance, found.distance_of_20
    common.report(about, done.format(network.directory / "tuned.json", *numbers), json)
