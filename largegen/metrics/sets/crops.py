"""Crops of the pictures of a set, and whole pictures: which, and read ahead by threads, always in the same order.

Where the crops lie depends on the pictures and the settings only, so every run, batch size and number of threads or
processes sees the same ones.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np

from largegen.errors import InputError, SlideError
from largegen.metrics.results import NotApplicable
from largegen.metrics.sets.crop_area import Region, region_of
from largegen.metrics.sets.images import Failed, Picture
from largegen.slides.slide import Slide

MASKERS = 2  # threads that read thumbnails
OPEN_SLIDES = 4  # crops come picture by picture, so that few need to be open
WHOLE_PX = 1024  # shorter side that whole pictures are shrunk to
Prepare = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class CropSettings:
    """Which crops of a set are compared."""

    count: int  # of crops, over the whole set
    size_px: int = 256  # side, in px at the working resolution
    placement: Literal["random", "grid"] = "random"  # anywhere, also over one another; or side by side
    seed: int = 0

    def check(self) -> None:
        """Raise InputError for settings that make no sense."""
        if self.count < 1 or self.size_px < 1:
            raise InputError(f"{self.count} crops of {self.size_px} px: both must be positive")
        if self.placement not in ("random", "grid"):
            raise InputError(f"crops placed {self.placement}: use random or grid")


class Samples:
    """Numbered pictures that are read one by one; `batches` reads them ahead. Base of Crops and of whole_pictures.

    pictures: see images.py; failed: takes the pictures that have samples which cannot be read. Exactly these samples
    are then left out, whoever comes upon them first; without it they raise SlideError.
    """

    def __init__(self, pictures: Sequence[Picture], failed: Failed | None = None):
        self.pictures, self.failed = tuple(pictures), failed
        self._open: OrderedDict[int, Slide] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        raise NotImplementedError

    def picture_of(self, index: int) -> int:
        """Number of the picture that a sample is from."""
        raise NotImplementedError

    def one(self, index: int) -> np.ndarray:
        """A sample, (h, w, 3) uint8."""
        raise NotImplementedError

    def batches(
        self, batch_size: int, workers: int = 2, share: tuple[int, int] = (0, 1), prepare: Prepare | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (indices (n,) int64, samples (n, ...)), in order, while `workers` threads read the next ones.

        prepare: applied to each sample (h, w, 3) uint8 by the threads; what it returns is stacked. share: (i, n)
        yields the i-th of every n batches. What cannot be read is left out of its batch where `failed` takes it, and a
        batch of which nothing is left does not come.
        """
        index, of = share
        starts = range(index * batch_size, len(self), of * batch_size)
        pending: deque[Future] = deque()
        with ThreadPoolExecutor(max(1, workers)) as pool:
            try:
                for start in starts:
                    indices = range(start, min(start + batch_size, len(self)))
                    pending.append(pool.submit(self._batch, indices, prepare))
                    if len(pending) > workers + 1:
                        yield from self._received(pending.popleft())
                while pending:
                    yield from self._received(pending.popleft())
            finally:
                pool.shutdown(cancel_futures=True)

    def _batch(self, indices: range, prepare: Prepare | None) -> tuple[list[int], list[np.ndarray], dict[int, str]]:
        """Which of the samples could be read, these, and the pictures of the others, with the reason."""
        done, samples, failed = [], [], {}
        for index in indices:
            try:
                sample = self.one(index)
            except SlideError as error:
                if self.failed is None:
                    raise
                failed.setdefault(self.picture_of(index), str(error))
                continue
            done.append(index)
            samples.append(prepare(sample) if prepare else sample)
        return done, samples, failed

    def _received(self, future: Future) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        indices, samples, failed = future.result()
        for picture, reason in failed.items():
            self._leave_out(picture, reason)
        if indices:
            yield np.array(indices, np.int64), np.stack(samples)

    def _leave_out(self, picture: int, reason: str) -> None:
        """Note a picture that cannot be used, once; raises SlideError where nobody takes note."""
        if self.failed is None:
            raise SlideError(reason)
        path = self.pictures[picture].path
        if path not in {noted for noted, _ in self.failed}:
            self.failed.append((path, reason))

    def _slide(self, picture: int) -> Slide:
        """The open picture; the last few stay open, for all threads."""
        with self._lock:
            if picture in self._open:
                self._open.move_to_end(picture)
            else:
                self._open[picture] = self.pictures[picture].open()
                if len(self._open) > OPEN_SLIDES:
                    self._open.popitem(last=False)  # not closed: another thread may be reading it
            return self._open[picture]


class Crops(Samples):
    """Square crops of pictures, drawn once and for all.

    random: uniform over the places in a picture; each picture gives as many as its area says. grid: side by side, a
    random subset if there are more than wanted, all if there are fewer. Pictures that all have exactly the crops' size
    ("patches") are taken whole, each once at most. Of slides and scenes only crops of tissue or data are taken.

    Raises InputError where there is no crop at all, and SlideError for a picture smaller than a crop or, without
    `failed`, damaged.
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        settings: CropSettings,
        failed: Failed | None = None,
        places: np.ndarray | None = None,
    ):
        """places: those that the same pictures and settings gave another one."""
        super().__init__(pictures, failed)
        settings.check()
        self.settings = settings
        # (N, 3) int64: picture, x, y (level-0 px), by picture and from top to bottom
        self.places = self._draw() if places is None else places

    def __len__(self) -> int:
        return len(self.places)

    def picture_of(self, index: int) -> int:
        return int(self.places[index, 0])

    def one(self, index: int) -> np.ndarray:
        picture, x, y = self.places[index].tolist()
        size = self.settings.size_px
        return self._slide(picture).read(x, y, size, size, self.pictures[picture].downsample)

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Some crops, (n, size, size, 3) uint8. Raises SlideError for one that cannot be read."""
        return np.stack([self.one(int(index)) for index in indices])

    def _draw(self) -> np.ndarray:
        settings, size = self.settings, self.settings.size_px
        rng = np.random.default_rng(settings.seed % 2**64)
        if all((picture.width, picture.height) == (size, size) for picture in self.pictures):
            chosen = np.arange(len(self.pictures))
            if len(chosen) > settings.count:
                chosen = np.sort(rng.choice(len(chosen), settings.count, replace=False))
            return np.pad(chosen[:, None], ((0, 0), (0, 2)))
        regions = self._regions()
        totals = np.array([region.total if region else 0 for region in regions], np.int64)
        if not totals.any():
            why = "they hold too little tissue or data"
            if self.failed:
                why = f"{len(self.failed)} were left out, the last: {self.failed[-1][1]}"
            raise NotApplicable(
                f"no crop of {size} px in {len(regions)} picture(s), first {self.pictures[0].path}: {why}"
            )
        if settings.placement == "grid":
            counts = rng.multivariate_hypergeometric(totals, min(settings.count, int(totals.sum())), method="marginals")
        else:
            shares = np.array([p.width * p.height for p in self.pictures]) * [r.share if r else 0 for r in regions]
            counts = rng.multinomial(settings.count, shares / shares.sum())
        places = [self._places(number, regions[number], int(counts[number])) for number in np.flatnonzero(counts)]
        return np.concatenate(places)

    def _places(self, number: int, region: Region, count: int) -> np.ndarray:
        """Some places in one picture: (count, 3) int64, of which those in a grid differ from one another."""
        rng = np.random.default_rng([self.settings.seed % 2**64, int(number)])
        if self.settings.placement == "grid":
            picks = rng.choice(region.total, count, replace=False, shuffle=False)
        else:
            picks = rng.integers(region.total, size=count)
        xy = np.rint(region.at(np.sort(picks)) * self.pictures[number].downsample).astype(np.int64)
        return np.column_stack([np.full(count, number), xy])

    def _regions(self) -> list[Region | None]:
        """Where the crops of each picture may begin; None for a picture that is left out."""

        def find(picture: Picture) -> Region | SlideError:
            try:
                return region_of(picture, self.settings.size_px, self.settings.placement == "grid")
            except SlideError as error:
                return error

        regions: list[Region | None] = []
        with ThreadPoolExecutor(MASKERS) as pool:
            for number, found in enumerate(pool.map(find, self.pictures)):
                regions.append(found if isinstance(found, Region) else None)
                if isinstance(found, SlideError):
                    self._leave_out(number, str(found))
        return regions


class _WholePictures(Samples):
    def __len__(self) -> int:
        return len(self.pictures)

    def picture_of(self, index: int) -> int:
        return index

    def one(self, index: int) -> np.ndarray:
        picture = self.pictures[index]
        shrink = max(1.0, min(picture.width, picture.height) / WHOLE_PX)
        width, height = round(picture.width / shrink), round(picture.height / shrink)
        return self._slide(index).read(0, 0, width, height, picture.downsample * shrink)


def whole_pictures(pictures: Sequence[Picture], failed: Failed | None = None) -> Samples:
    """Whole pictures, for CLIP FID: as they are where the shorter side is 1024 px at most.

    Larger ones are shrunk to that, from their pyramid and band by band (Lanczos), so that memory stays bounded. What
    CLIP's bicubic resizing to 224 px then gives differs from clean-fid's, which sees all pixels, by rounding and by the
    filters' difference only. Pictures differ in size: `batches` needs a `prepare` that makes them the same.
    """
    return _WholePictures(pictures, failed)
