"""The real and the generated set of an evaluation: images, or statistics of an earlier one, and their pairs."""

from dataclasses import dataclass
from pathlib import Path

from largegen.errors import InputError, SlideError
from largegen.metrics.request import SetsRequest
from largegen.metrics.sets.images import Failed, ResolutionGroup, find_images, resolution_groups
from largegen.metrics.sets.pairs import Pair, find_pairs, given_pairs
from largegen.metrics.sets.statistics import Statistics, load_statistics


@dataclass(frozen=True)
class Sets:
    """What is compared with what."""

    real_paths: tuple[str, ...]  # as given
    fake_paths: tuple[str, ...]
    groups: tuple[ResolutionGroup, ...]  # the finest first; without real images where there are statistics of them
    statistics: tuple[Statistics, ...] = ()  # of the real set
    pairs: tuple[Pair, ...] = ()
    unpaired: tuple[str, ...] = ()  # generated images without one, and why
    failed: Failed | None = None  # images that were left out, and why; None where a damaged one is an error

    def leave_out(self, path: Path, error: SlideError) -> None:
        """Note an image that cannot be read; raises the error where a damaged one is an error."""
        if self.failed is None:
            raise error
        if path not in self.left_out:
            self.failed.append((path, str(error)))

    @property
    def left_out(self) -> set[Path]:
        """The images that were left out."""
        return {path for path, _ in self.failed or ()}


def open_sets(request: SetsRequest) -> Sets:
    """Find the images of both sets, the resolutions to compare them at, and their pairs.

    Raises:
        InputError: What cannot be found, read or compared.
    """
    real, fake, real_source, fake_source = request.real, request.fake, request.real_source, request.fake_source
    failed: Failed | None = [] if request.keep_going else None
    real_source.check("real_")
    fake_source.check("fake_")
    for path in fake:
        if path.suffix.lower() == ".npz":
            raise InputError(f"`fake` {path}: saved statistics stand for the real set alone; give images")
    saved = [path for path in real if path.suffix.lower() == ".npz"]
    if saved and len(real) > 1:
        raise InputError(f"`real` {saved[0]}: saved statistics are a whole real set; give nothing beside them")
    statistics = tuple(load_statistics(saved[0])) if saved else ()
    reals, fakes = [] if saved else find_images(real), find_images(fake)
    tissue = None if request.tissue_filter else False
    if request.tissue_filter and saved:
        tissue = any(one.key.get("tissue") for one in statistics)  # as their images were
    groups = resolution_groups(reals, fakes, request.target, (real_source, fake_source), failed, tissue)
    left_out: list[str] = []
    if request.pairs:
        found = given_pairs(request.pairs, fake_source, real_source, failed)
    elif saved:
        found, left_out = [], ["saved statistics hold no real images to pair with"]
    else:
        made = {image.path: image.provenance for group in groups for image in group.fake}
        found, left_out = find_pairs(made, reals, real_source)
    names = tuple(map(str, real)), tuple(map(str, fake))
    return Sets(*names, groups, statistics, tuple(found), tuple(left_out), failed)
