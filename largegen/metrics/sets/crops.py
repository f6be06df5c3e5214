"""Crops of the images of a set, and whole images: which, and read ahead by threads, always in the same order.

Where the crops lie depends on the images and the settings only, so every run, batch size and number of threads or
processes sees the same ones.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

import numpy as np

from largegen.errors import SlideError
from largegen.metrics.request import CropSettings
from largegen.metrics.results import NotApplicable
from largegen.metrics.sets.crop_area import CropArea, crop_area_of
from largegen.metrics.sets.images import Failed, SetImage
from largegen.runtime.read_ahead import read_ahead
from largegen.slides.slide import Slide

MASK_THREADS = 2  # threads that read thumbnails
MAX_OPEN_SLIDES = 4  # crops come image by image, so that few need to be open
WHOLE_PX = 1024  # shorter side that whole images are shrunk to
Prepare = Callable[[np.ndarray], np.ndarray]
_Read = tuple[list[int], list[np.ndarray], dict[int, str]]  # numbers, samples, images that fail and why


class Samples:
    """Numbered images that are read one by one; `batches` reads them ahead. Base of Crops and of whole_images.

    images: see images.py; failed: takes the images that have samples which cannot be read. Exactly these samples
    are then left out, whoever comes upon them first; without it they raise SlideError.
    """

    def __init__(self, images: Sequence[SetImage], failed: Failed | None = None):
        self.images, self.failed = tuple(images), failed
        self._open: OrderedDict[int, Slide] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        raise NotImplementedError

    def image_of(self, index: int) -> int:
        """Return the number of the image that a sample is from."""
        raise NotImplementedError

    def one(self, index: int) -> np.ndarray:
        """Read a sample, (h, w, 3) uint8."""
        raise NotImplementedError

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Read some samples of one size, (n, h, w, 3) uint8. Raises SlideError for one that cannot be read."""
        return np.stack([self.one(int(index)) for index in indices])

    def batches(
        self, batch_size: int, workers: int = 2, share: tuple[int, int] = (0, 1), prepare: Prepare | None = None
    ) -> Generator[tuple[np.ndarray, np.ndarray], None, None]:
        """Read samples in order, while `workers` threads read the next ones.

        What cannot be read is left out of its batch where `failed` takes it, and a batch of which nothing is left does
        not come.

        Args:
            batch_size: Samples of a batch.
            workers: Threads that read.
            share: (i, n) yields the i-th of every n batches.
            prepare: Applied to each sample (h, w, 3) uint8 by the threads; what it returns is stacked.

        Yields:
            Indices (n,) int64 and samples (n, ...).

        Raises:
            SlideError: A sample cannot be read and `failed` does not take it.
        """
        index, of = share
        starts = range(index * batch_size, len(self), of * batch_size)
        parts = (range(start, min(start + batch_size, len(self))) for start in starts)
        with closing(read_ahead(partial(self._batch, prepare=prepare), parts, max(1, workers), workers + 1)) as batches:
            for batch in batches:
                yield from self._received(*batch)

    def _batch(self, indices: range, prepare: Prepare | None) -> _Read:
        """Read samples: which could be read, these, and the images of the others, with the reason."""
        done: list[int] = []
        samples: list[np.ndarray] = []
        failed: dict[int, str] = {}
        for index in indices:
            try:
                sample = self.one(index)
            except SlideError as error:
                if self.failed is None:
                    raise
                failed.setdefault(self.image_of(index), str(error))
                continue
            done.append(index)
            samples.append(prepare(sample) if prepare else sample)
        return done, samples, failed

    def _received(
        self, indices: list[int], samples: list[np.ndarray], failed: dict[int, str]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for image, reason in failed.items():
            self._leave_out(image, reason)
        if indices:
            yield np.array(indices, np.int64), np.stack(samples)

    def _leave_out(self, image: int, reason: str) -> None:
        """Note an image that cannot be used, once; raises SlideError where nobody takes note."""
        if self.failed is None:
            raise SlideError(reason)
        path = self.images[image].path
        if path not in {noted for noted, _ in self.failed}:
            self.failed.append((path, reason))

    def _slide(self, image: int) -> Slide:
        """Open an image; the last few stay open, for all threads."""
        with self._lock:
            if image in self._open:
                self._open.move_to_end(image)
            else:
                self._open[image] = self.images[image].open()
                if len(self._open) > MAX_OPEN_SLIDES:
                    self._open.popitem(last=False)  # not closed: another thread may be reading it
            return self._open[image]


class Crops(Samples):
    """Square crops of images, drawn once and for all.

    random: uniform over the places in an image; each image gives as many as its area says. grid: side by side, a
    random subset if there are more than wanted, all if there are fewer. Images that all have exactly the crops' size
    ("patches") are taken whole, each once at most. Of slides and scenes only crops of tissue or data are taken.

    Raises InputError where there is no crop at all, and SlideError for an image smaller than a crop or, without
    `failed`, damaged.
    """

    def __init__(
        self,
        images: Sequence[SetImage],
        settings: CropSettings,
        failed: Failed | None = None,
        places: np.ndarray | None = None,
    ):
        """places: those that the same images and settings gave another one."""
        super().__init__(images, failed)
        settings.check()
        self.settings = settings
        # (N, 3) int64: image, x, y (level-0 px), by image and from top to bottom
        self.places = self._draw() if places is None else places

    def __len__(self) -> int:
        return len(self.places)

    def image_of(self, index: int) -> int:
        """Return the number of the image that a crop is from."""
        return int(self.places[index, 0])

    def one(self, index: int) -> np.ndarray:
        """Read a crop, (size, size, 3) uint8."""
        image, x, y = self.places[index].tolist()
        size = self.settings.size_px
        return self._slide(image).read(x, y, size, size, self.images[image].downsample)

    def _draw(self) -> np.ndarray:
        settings, size = self.settings, self.settings.size_px
        rng = np.random.default_rng(settings.seed % 2**64)
        if all((image.width, image.height) == (size, size) for image in self.images):
            chosen = np.arange(len(self.images))
            if len(chosen) > settings.count:
                chosen = np.sort(rng.choice(len(chosen), settings.count, replace=False))
            return np.pad(chosen[:, None], ((0, 0), (0, 2)))
        areas = self._areas()
        totals = np.array([area.total if area else 0 for area in areas], np.int64)
        if not totals.any():
            why = "they hold too little tissue or data"
            if self.failed:
                why = f"{len(self.failed)} were left out, the last: {self.failed[-1][1]}"
            raise NotApplicable(f"no crop of {size} px in {len(areas)} image(s), first {self.images[0].path}: {why}")
        if settings.placement == "grid":
            counts = rng.multivariate_hypergeometric(totals, min(settings.count, int(totals.sum())), method="marginals")
        else:
            shares = np.array([p.width * p.height for p in self.images]) * [area.share if area else 0 for area in areas]
            counts = rng.multinomial(settings.count, shares / shares.sum())
        drawn = zip(areas, counts.tolist(), strict=True)
        return np.concatenate(
            [self._places(number, area, count) for number, (area, count) in enumerate(drawn) if area and count]
        )

    def _places(self, number: int, area: CropArea, count: int) -> np.ndarray:
        """Draw some places in one image: (count, 3) int64, of which those in a grid differ from one another."""
        rng = np.random.default_rng([self.settings.seed % 2**64, number])
        if self.settings.placement == "grid":
            picks = rng.choice(area.total, count, replace=False, shuffle=False)
        else:
            picks = rng.integers(area.total, size=count)
        xy = np.rint(area.at(np.sort(picks)) * self.images[number].downsample).astype(np.int64)
        return np.column_stack([np.full(count, number), xy])

    def _areas(self) -> list[CropArea | None]:
        """Find where the crops of each image may begin; None for an image that is left out."""

        def find(image: SetImage) -> CropArea | SlideError:
            try:
                return crop_area_of(image, self.settings.size_px, self.settings.placement == "grid")
            except SlideError as error:
                return error

        areas: list[CropArea | None] = []
        with ThreadPoolExecutor(MASK_THREADS) as pool:
            for number, found in enumerate(pool.map(find, self.images)):
                areas.append(found if isinstance(found, CropArea) else None)
                if isinstance(found, SlideError):
                    self._leave_out(number, str(found))
        return areas


class _WholeImages(Samples):
    def __len__(self) -> int:
        return len(self.images)

    def image_of(self, index: int) -> int:
        return index

    def one(self, index: int) -> np.ndarray:
        image = self.images[index]
        shrink = max(1.0, min(image.width, image.height) / WHOLE_PX)
        width, height = round(image.width / shrink), round(image.height / shrink)
        return self._slide(index).read(0, 0, width, height, image.downsample * shrink)


def whole_images(images: Sequence[SetImage], failed: Failed | None = None) -> Samples:
    """Take whole images, for CLIP FID: as they are where the shorter side is 1024 px at most.

    Larger ones are shrunk to that, from their pyramid and band by band (Lanczos), so that memory stays bounded. What
    CLIP's bicubic resizing to 224 px then gives differs from clean-fid's, which sees all pixels, by rounding and by the
    filters' difference only. Images differ in size: `batches` needs a `prepare` that makes them the same.
    """
    return _WholeImages(images, failed)
