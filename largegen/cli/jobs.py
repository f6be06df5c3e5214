"""Many jobs by one command, which is called once more for each: see runtime/jobs.py."""

import functools
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from largegen.cli import common
from largegen.cli import options as shared
from largegen.cli.derived import Command, with_parameters
from largegen.cli.flags import in_flags
from largegen.cli.job_rows import Row, find_rows
from largegen.cli.one_job import forget_kept, one_job
from largegen.errors import InputError, LargegenError
from largegen.runtime.jobs import Job, Record
from largegen.runtime.outputs import protect, refuse_input
from largegen.runtime.private_api import usage_error
from largegen.runtime.signals import EXIT_TERMINATED, Terminated
from largegen.sampling.settings import Imagining

JobsFile = Annotated[
    Path | None,
    typer.Option(
        "--jobs",
        help="CSV file of many jobs, one per line: its columns are options (ref or image, size, seed, label, prompt,"
        " out, ...). --out is then their directory.",
    ),
]
KINDS = {
    "generate": "synthetic",
    "zoom": "zoom",
    "upscale": "upscaled",
    "edit": "edited",
    "grow": "grown",
}  # in the name of an output
HOW = ("jobs", "processes", "keep_going", "dry_run", "json", "config", "verbose", "quiet", "overwrite", "recursive")
NO_WEIGHT = (*HOW, "out", "device", "save_every", "cache", "batch_size")  # what an output does not depend on
TRUE, FALSE = ("1", "true", "yes"), ("0", "false", "no")


def with_jobs(function: Command) -> Command:
    """Give a command `--jobs` and `--keep-going`, and let it do one job after another where many are asked for."""
    own = inspect.signature(function, eval_str=True).parameters
    added = {name: parameter for name, parameter in inspect.signature(_many).parameters.items() if name not in own}
    if "slides" in own:
        del added["jobs"]  # the slides are many already, and may be named in a CSV file

    @functools.wraps(function)
    def command(context: typer.Context, **options: Any) -> Any:
        rows = find_rows(options)
        if rows is None:
            return function(**{name: value for name, value in options.items() if name in own})
        return _run(context, rows, options)

    return with_parameters(command, [*own.values(), *added.values()])


def _many(context: typer.Context, jobs: JobsFile = None, keep_going: shared.KeepGoing = False) -> None:
    """Take the options of many jobs."""


@dataclass(frozen=True)
class _Call:
    """The call of a command that does one job."""

    row: Row
    output: str  # in the folder
    arguments: list[str]
    context: Any  # of Click, parsed


def _run(context: Any, rows: list[Row], options: dict[str, Any]) -> int:
    from largegen.runtime.distributed import work_alone
    from largegen.runtime.jobs import run_jobs

    rank, launched = work_alone()
    folder: Path | None = options["out"]
    if folder is None or folder.is_file():
        raise InputError("`out`: many jobs need a directory for their outputs")
    calls: dict[str, _Call] = {}
    for row in rows:
        call = _parse(context, row, folder, options)
        if same := calls.get(call.output):
            where = f"{same.row.where} and {row.where}"
            apart = (
                "embed them into two directories" if "slides" in options else "tell them apart by a column named out"
            )
            raise InputError(f"{where}: both are {folder / call.output}; {apart}")
        calls[call.output] = call
    _check_outputs(calls.values(), folder)
    as_json, keep_going = options["json"], options["keep_going"]
    if options["dry_run"]:
        results = [_tried(call, keep_going) for call in calls.values()]
        common.print_json(_merged(results, "slides" in options))
        return 3 if any("error" in result for result in results) else 0

    def work(job: Job) -> dict[str, Any]:
        reports = _do(calls[job.output])
        for _, text in reports:
            if text and not as_json:
                typer.echo(text)
        return reports[-1][0] if reports else {}

    try:
        records = run_jobs(
            folder,
            [_job(call) for call in calls.values()],
            work,
            keep_going=keep_going,
            overwrite=options["overwrite"],
            wait=launched and rank == 0,
            say=_say,
        )
    finally:
        forget_kept()
    if rank:
        return 0  # the first process reports, when all is done
    failed = [record for record in records if record.state == "failed"]
    if as_json:
        results = [_result(calls[record.output], record) for record in records]
        common.print_json(_merged(results, "slides" in options))
    for record in failed:
        common.log.error("%s: %s", folder / record.output, record.error)
    return 3 if failed else 0


def _parse(context: Any, row: Row, folder: Path, options: dict[str, Any]) -> _Call:
    """Parse the command that does one job: what was given to this one, and what its row says."""
    command = context.command
    by_name = {param.name: param for param in command.params if param.name not in HOW}
    by_name |= {max(p.opts, key=len).lstrip("-").replace("-", "_"): p for p in by_name.values()}
    by_name["slide"] = next(by_name[name] for name in ("slides", "image", "ref") if name in by_name)
    cells = {name: text for name, text in row.cells.items() if text}
    if unknown := [name for name in row.cells if name not in by_name]:
        raise InputError(f"{row.where}: {context.info_name} has no option {unknown[0]!r} for a job")
    params = {by_name[name].name: (by_name[name], text) for name, text in cells.items()}
    arguments: list[str] = []
    for name, param in {param.name: param for param in command.params}.items():
        if name in params:
            arguments += _words(param, params[name][1], row.where) if name != "out" else []
        elif name not in (*HOW, "out", "slides") and context.get_parameter_source(name).name == "COMMANDLINE":
            arguments += _words(param, str(context.params[name]), row.where)
    config = [f"--config={options['config']}"] if options.get("config") else []
    how = [flag for flag in ("--overwrite", "--dry-run") if options[flag[2:].replace("-", "_")]]

    def parsed(*more: str) -> Any:
        try:
            return command.make_context(context.info_name, [*arguments, *more, *config, *how], parent=context.parent)
        except usage_error() as error:
            raise InputError(f"{row.where}: {error.format_message()}") from error  # type: ignore[attr-defined]

    if "slides" in by_name:
        made = parsed("--out", str(folder))
        output = f"{Path(str(made.params['slides'][0])).stem.removesuffix('.ome')}.h5"
        return _Call(row, output, [context.info_name, *arguments, "--out", str(folder)], made)
    output = cells.get("out") or _default_output(context.info_name, parsed().params, "seed" in cells)
    out = ["--out", str(folder / output)]
    return _Call(row, Path(output).as_posix(), [context.info_name, *arguments, *out], parsed(*out))


def _words(param: Any, text: str, where: str) -> list[str]:
    """Give an option or argument as words of a command line."""
    if param.param_type_name == "argument":
        return [text]
    flag = max(param.opts, key=len)
    if not param.is_flag:
        return [f"{flag}={text}"]
    if text.lower() not in (*TRUE, *FALSE):
        raise InputError(f"{where}: {flag} {text}: give true or false")
    return [flag] if text.lower() in TRUE else []


def _default_output(command: str, params: dict[str, Any], with_seed: bool) -> str:
    reference = params.get("image") or params.get("ref") or params.get("embeddings")
    if reference:
        name = Path(str(reference)).stem.removesuffix(".ome")
    else:
        name = Imagining(label=params["label"], prompt=params["prompt"]).name
    seed = f"_seed{params['seed']}" if with_seed else ""
    size = f"_{str(params['size']).lower()}" if "size" in params else ""
    return f"{name}_{KINDS[command]}{size}{seed}.tif"


def _check_outputs(calls: Iterable[_Call], folder: Path) -> None:
    """Refuse an output that is an input of any job, or of no known format."""
    from largegen.images.write import output_format

    for call in calls:
        protect(path for path in _paths(call.context).values() if path.exists())
    for call in calls:
        refuse_input(folder / call.output)
        if "slides" not in call.context.params:
            output_format(Path(call.output))


def _paths(context: Any) -> dict[str, Path]:
    """Find the inputs among the options of a job, by the option's name."""
    found, hints = {}, get_type_hints(context.command.callback, include_extras=True)
    for param in context.command.params:
        value = context.params.get(param.name)
        value = value[0] if isinstance(value, list | tuple) and value else value
        if value and _takes_path(hints[param.name]) and param.name not in (*common.OUTPUTS, *HOW):
            found[param.name] = Path(str(value))
    return found


def _takes_path(annotation: Any) -> bool:
    """Tell whether an option is a path, or may be one."""
    return annotation is Path or any(map(_takes_path, get_args(annotation)))


def _job(call: _Call) -> Job:
    """Describe a job to others: its digest stands for its options and for what its inputs hold."""
    from largegen.models.directory import find_model
    from largegen.runtime.jobs import digest_of, stamp

    params, paths = call.context.params, _paths(call.context)
    about = {name: value for name, value in params.items() if name not in (*NO_WEIGHT, *paths)}
    stamps: dict[str, Any] = {name: stamp(path) for name, path in paths.items() if path.exists()}
    if Path(params.get("mask") or "").is_file():
        stamps["mask"] = stamp(Path(params["mask"]))
    if "model" in params and Path(params["model"]).exists():
        stamps["model"] = stamp(find_model(params["model"]))
        del about["model"]
    width, _, height = str(params.get("size", "")).lower().partition("x")
    size = float(width) * float(height or width) if width.isdecimal() else 1.0
    digest = digest_of(call.context.info_name, about, stamps)
    return Job(call.output, {name: text for name, text in call.row.cells.items() if text}, digest, size)


def _do(call: _Call) -> list[tuple[dict[str, Any], str]]:
    with one_job(call.arguments) as job:
        try:
            with call.context:
                call.context.command.invoke(call.context)
        except typer.Exit as left:
            if left.exit_code == EXIT_TERMINATED:
                raise Terminated from left
            raise
    return job.reports


def _tried(call: _Call, keep_going: bool) -> dict[str, Any]:
    """Estimate one job."""
    try:
        return {"output": call.output} | _do(call)[-1][0]
    except LargegenError as error:
        if not keep_going:
            raise
        return _result(call, Record(call.output, "failed", error=_say(error)))


def _result(call: _Call, record: Record) -> dict[str, Any]:
    about = {"output": call.output, "state": record.state, "seconds": record.seconds, "worker": record.worker}
    if record.error:
        return about | {"error": record.error, "slides": [{"slide": call.row.where, "error": record.error}]}
    return about | record.report


def _merged(results: list[dict[str, Any]], of_slides: bool) -> dict[str, Any]:
    """Put the reports of all jobs into one; of `embed`, as of one job that has all `slides`."""
    if not of_slides:
        return {"jobs": [{k: v for k, v in result.items() if k != "slides"} for result in results]}
    about = next((result for result in results if "encoder" in result), {})
    common = {name: value for name, value in about.items() if name not in ("output", "state", "seconds", "worker")}
    return common | {"slides": [slide for result in results for slide in result.get("slides", [])]}


def _say(error: Exception) -> str:
    text = str(error) if isinstance(error, LargegenError | OSError) else f"unexpected {type(error).__name__}: {error}"
    return " ".join(in_flags(text).split())
