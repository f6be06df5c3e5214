"""The whole of `largegen eval`: from files to figures, and to the files that keep them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from largegen.errors import InputError
from largegen.metrics.comparison import Comparison
from largegen.metrics.evaluation import evaluate, plan
from largegen.metrics.report.html import write_report
from largegen.metrics.report.sheets import sheets_of
from largegen.metrics.request import EvaluationConfig
from largegen.metrics.results import Evaluation
from largegen.metrics.sets.sets import SetsRequest, open_sets
from largegen.metrics.sets.statistics import save_statistics
from largegen.runtime.distributed import process_group, run_on_main
from largegen.runtime.outputs import check_writable

NO_STATISTICS = "`save_stats`: needs a metric that has statistics, such as crop-fid or fd:starter"


@dataclass(frozen=True)
class EvaluationOutputs:
    """The files that an evaluation leaves beside its figures."""

    report: Path | None = None  # a page with images, .html
    save_stats: Path | None = None  # the real set's statistics, .npz
    overwrite: bool = False  # replace files that are there

    def check(self, real: Sequence[Path], config: EvaluationConfig) -> None:
        """Raise InputError or OutputError, before the work, where one of the files could not be written or filled."""
        for name, path, suffix in (("report", self.report, ".html"), ("save_stats", self.save_stats, ".npz")):
            if path is not None:
                if path.suffix.lower() != suffix:
                    raise InputError(f"`{name}` {path}: the name must end in {suffix}")
                check_writable(path, self.overwrite, name)
        if self.save_stats and any(path.suffix.lower() == ".npz" for path in real):
            raise InputError("`save_stats`: the real set is saved statistics already")
        if self.save_stats and config.metrics and not any(metric.network for metric in config.metrics):
            raise InputError(NO_STATISTICS)

    def write(self, evaluation: Evaluation, comparison: Comparison) -> None:
        """Write the files that are wanted. Raises OutputError where one cannot be written."""
        if self.save_stats and not comparison.done:
            raise InputError(NO_STATISTICS)
        if self.save_stats:
            save_statistics(self.save_stats, [pair.real for pair in comparison.done.values()])
        if self.report:
            write_report(self.report, evaluation, sheets_of(comparison))


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
    outputs.check(request.real, config)
    processes = process_group(config.device)
    sets = run_on_main(processes, lambda: open_sets(request))
    evaluation, comparison = evaluate(sets, config, processes, progress)

    reworded = evaluation.reworded(reword)

    def finish() -> None:
        tell(reworded)
        outputs.write(reworded, comparison)

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
    run_on_main(process_group(config.device), lambda: tell(plan(open_sets(request), config)))
