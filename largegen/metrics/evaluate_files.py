"""The whole of `largegen eval`: from files to figures, and to the files that keep them."""

from collections.abc import Callable
from typing import Any

from largegen.errors import InputError
from largegen.metrics.comparison import Comparison
from largegen.metrics.evaluation import evaluate, plan
from largegen.metrics.job import evaluation_job, job_in
from largegen.metrics.report.html import write_report
from largegen.metrics.report.links import ViewerLinks
from largegen.metrics.report.sheets import sheets_of
from largegen.metrics.request import NO_STATISTICS, EvaluationConfig, EvaluationOutputs, SetsRequest
from largegen.metrics.results import Evaluation
from largegen.metrics.sets.sets import open_sets
from largegen.metrics.sets.statistics import save_statistics
from largegen.runtime.distributed import process_group, run_on_main
from largegen.runtime.lock import lock


def evaluate_files(
    request: SetsRequest,
    config: EvaluationConfig,
    outputs: EvaluationOutputs,
    tell: Callable[[Evaluation], None],
    reword: Callable[[str], str] = str,
    progress: bool = False,
) -> bool:
    """Evaluate files on as many processes as run this, tell the figures, then write `outputs`.

    Args:
        request: What is compared with what.
        config: Which metrics, of which crops.
        outputs: Files to write; they are checked first.
        tell: Takes the figures, in the main process and before any file is written: a full disk must not cost them.
        reword: Applied to the reasons and warnings: names of parameters become what users know them by.
        progress: Whether to show progress bars.

    Returns:
        Whether all images could be read.

    Raises:
        InputError: Images or settings that do not go together, or a metric that cannot be had.
        SlideError: A damaged image, unless such are to be left out.
        OutputError: A file that cannot be written.
    """
    config.check()
    job = evaluation_job(request, config)
    made = [path for path in (outputs.report, outputs.save_stats) if path and job_in(path) == job]
    outputs.check(request.real, config, made)
    processes = process_group(config.torch_device)
    sets = run_on_main(processes, lambda: open_sets(request))
    evaluation, comparison = evaluate(sets, config, processes, progress)

    reworded = evaluation.reworded(reword)

    def finish() -> None:
        tell(reworded)
        _write(outputs, reworded, comparison, job)

    run_on_main(processes, finish)
    return not sets.failed


def plan_files(
    request: SetsRequest,
    config: EvaluationConfig,
    outputs: EvaluationOutputs,
    tell: Callable[[dict[str, Any]], None],
) -> None:
    """Check what `evaluate_files` would check, and tell, in the main process, what it would do: see evaluation.plan."""
    config.check()
    outputs.check(request.real, config)
    run_on_main(process_group(config.torch_device), lambda: tell(plan(open_sets(request), config)))


def _write(outputs: EvaluationOutputs, evaluation: Evaluation, comparison: Comparison, job: str) -> None:
    """Write the files that are wanted. Raises OutputError where one cannot be written."""
    if outputs.save_stats and not comparison.done:
        raise InputError(NO_STATISTICS)
    if outputs.save_stats:
        with lock(outputs.save_stats):
            save_statistics(outputs.save_stats, [pair.real for pair in comparison.done.values()], job)
    if outputs.report:
        with lock(outputs.report):
            links = ViewerLinks.open(outputs.viewer, outputs.report) if outputs.viewer else None
            write_report(outputs.report, evaluation, sheets_of(comparison, links), job)
