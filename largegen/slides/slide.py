"""Open a slide, a scene or a plain image; read any region at any resolution.

Places are level-0 pixels, x to the right and y down, from the top-left corner. Resolution is micrometres per
level-0 pixel (`mpp`) for slides, metres (`gsd_m`) for scenes; `downsample` is level-0 per output pixels.
"""

import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np

from largegen.errors import InputError, SlideError
from largegen.slides.colour import WHITE, glass_colour, to_rgb
from largegen.slides.find import IMAGE_SUFFIXES
from largegen.slides.image_info import Georeference
from largegen.slides.metadata import positive
from largegen.slides.pyramid import inside, level_downsample, with_margin
from largegen.slides.readers import Reader, open_reader
from largegen.slides.resolution import PIXELS, Resolution, Scale, mpp_of
from largegen.slides.scene_reader import SceneReader

log = logging.getLogger(__name__)

MAX_READ_PX = 2**24  # level pixels decoded at once; larger regions are read in bands


class Slide:
    """An open slide, scene or image, as `open_slide` gives it: a context manager, picklable for workers.

    Attributes:
        path: the file.
        name: its stem.
        kind: "slide", "scene" or "image".
        width, height: of level 0, in pixels.
        levels: (width, height) of each pyramid level, in its own pixels, the largest first.
        mpp: um per level-0 pixel; None for scenes, or if unknown.
        gsd_m: metres per level-0 pixel of a scene, None if unknown.
        magnification: the objective in the metadata or `source_mag`, never derived; None if unknown.
        georeference: where a scene lies, None if unknown.
        provenance: what an image of ours says of itself, else empty.
        lossy: whether its pixels are stored as JPEG or the like.
        reader, vendor: the library that reads it, and OpenSlide's name of its format.
    """

    def __init__(self, path: Path, source: Resolution, check: bool):
        self.path = path
        self.name = slide_name(path)
        self._source = source
        self._reader: Reader = open_reader(path, check)
        self.reader, self.lossy = self._reader.name, self._reader.lossy
        self.levels = self._reader.levels
        self.width, self.height = self.levels[0]
        self._downsamples = [level_downsample(self.levels[0], level) for level in self.levels]
        properties, said = self._reader.properties, self._reader.provenance
        # An image that was cropped or resized elsewhere is no longer what its header says.
        self.provenance = said if (said.get("width"), said.get("height")) == self.levels[0] else {}
        self.vendor = properties.get("openslide.vendor", "")
        self.georeference: Georeference | None = None
        self.mpp: float | None = None
        self.magnification: float | None = None
        self.gsd_m: float | None = None
        self.kind = "slide"
        self._named_background: tuple[int, int, int] | None = None
        if isinstance(self._reader, SceneReader):
            self.kind = "scene"
            self.georeference = self._reader.georeference
            self.gsd_m = source.gsd or self._reader.gsd_m
            self._named_background = (0, 0, 0)
        else:
            if path.suffix.lower() in IMAGE_SUFFIXES:
                self.kind = "image"
            self.gsd_m = source.gsd or positive(self.provenance.get("gsd_m"))
            self.magnification = source.mag or positive(properties.get("openslide.objective-power"))
            said_mpp = self.provenance.get("mpp") or properties.get("openslide.mpp-x")
            self.mpp = source.as_mpp or positive(said_mpp)
            if named := properties.get("openslide.background-color"):
                red, green, blue = bytes.fromhex(named)
                self._named_background = red, green, blue
        self._range: tuple[float, float] | None = None

    def __reduce__(self) -> tuple[Callable[..., "Slide"], tuple[Path | float | None, ...]]:
        return open_slide, (self.path, *self._source)

    def __enter__(self) -> "Slide":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    @property
    def own_mpp(self) -> float | None:
        """Micrometres per level-0 pixel: as measured, else by the objective; None for scenes, or if unknown."""
        return self.mpp or (mpp_of(self.magnification) if self.magnification else None)

    @property
    def scale(self) -> Scale:
        """The size of a level-0 pixel, in um before metres where both are known; PIXELS where neither is."""
        if self.own_mpp:
            return Scale("um", self.own_mpp)
        return Scale("m", self.gsd_m) if self.gsd_m else PIXELS

    @cached_property
    def background(self) -> tuple[int, int, int]:
        """The colour of empty glass: as the metadata name it, else as a thumbnail shows it; black for scenes."""
        return self._named_background or glass_colour(self._resample(0, 0, *self._thumbnail_size(512)))

    def read(self, x: float, y: float, width: int, height: int, downsample: float = 1.0) -> np.ndarray:
        """Read a rectangle, which may lie outside the slide.

        The nearest larger pyramid level is resampled by an antialiased Lanczos filter that is exact to a fraction of
        a pixel, so neighbouring rectangles join without a seam.

        Args:
            x: left edge, in level-0 pixels.
            y: top edge, in level-0 pixels.
            width: in output pixels.
            height: in output pixels.
            downsample: level-0 pixels per output pixel.

        Returns:
            (height, width, 3) uint8 RGB; pixels whose centre is outside the slide have its background colour.

        Raises:
            InputError: the size or downsample is not positive.
            SlideError: the file is damaged.
        """
        if width < 1 or height < 1 or not downsample > 0:
            raise InputError(f"{self.path}: cannot read {width}x{height} px at downsample {downsample}")
        out = np.empty((height, width, 3), np.uint8)
        left, right = inside(x, width, downsample, self.width)
        top, bottom = inside(y, height, downsample, self.height)
        if (right - left, bottom - top) != (width, height):
            out[:] = self.background
        if left < right and top < bottom:
            start = (x + left * downsample, y + top * downsample)
            out[top:bottom, left:right] = self._resample(*start, right - left, bottom - top, downsample)
        return out

    def _resample(self, x: float, y: float, width: int, height: int, downsample: float) -> np.ndarray:
        from PIL import Image

        level = self._level_for(downsample)
        scale_x, scale_y = (downsample / d for d in self._downsamples[level])
        if width * scale_x * height * scale_y > MAX_READ_PX and height > 1:
            half = height // 2
            parts = ((y, half), (y + half * downsample, height - half))
            return np.concatenate([self._resample(x, start, width, rows, downsample) for start, rows in parts])
        left, top = x / self._downsamples[level][0], y / self._downsamples[level][1]
        if scale_x == scale_y == 1 and left % 1 == top % 1 == 0 and self._reader.starts_exactly(level):
            x0, y0 = int(left), int(top)
            return self._read_level(level, x0, y0, x0 + width, y0 + height)[0]
        (x0, x1), (y0, y1) = with_margin(left, width, scale_x), with_margin(top, height, scale_y)
        pixels, from_x, from_y = self._read_level(level, x0, y0, x1, y1)
        left, top = left - from_x, top - from_y
        box = (left, top, left + width * scale_x, top + height * scale_y)
        return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS, box))

    def _read_level(self, level: int, x0: int, y0: int, x1: int, y1: int) -> tuple[np.ndarray, float, float]:
        """Read [x0, x1) x [y0, y1) of a level as RGB, its edge repeated outside; and where it starts."""
        width, height = self.levels[level]
        left, top = min(max(x0, 0), width - 1), min(max(y0, 0), height - 1)
        right, bottom = max(min(x1, width), left + 1), max(min(y1, height), top + 1)
        raw, x, y = self._reader.read(level, left, top, right - left, bottom - top)
        pixels = self._to_rgb(raw)
        pad_x, pad_y = (max(left - x0, 0), max(x1 - right, 0)), (max(top - y0, 0), max(y1 - bottom, 0))
        if any(pad_x + pad_y):
            pixels = np.pad(pixels, (pad_y, pad_x, (0, 0)), mode="edge")
        return np.ascontiguousarray(pixels), x - pad_x[0], y - pad_y[0]

    def _to_rgb(self, raw: np.ndarray) -> np.ndarray:
        """Convert bands as stored to (h, w, 3) uint8, on the named colour or white where there is no opacity."""
        shown = self._sixteen_bit_range() if raw.dtype == np.uint16 else None
        return to_rgb(raw, shown, (self._named_background or WHITE) if self._reader.has_alpha else None)

    def _sixteen_bit_range(self) -> tuple[float, float]:
        """Find the values shown as 0 and 255: 0..65535, or for scenes the 2nd and 98th percentile.

        Scenes store reflectance in a small part of the 16 bits. The percentiles are those of a thumbnail's
        red, green and blue together: one stretch for every region and band.
        """
        if self._range is None:
            self._range = (0.0, 65535.0)
            if self.kind == "scene":
                raw = self._sample(1024)
                data = raw[raw[..., -1] > 0][:, :-1]
                low, high = np.percentile(data, (2, 98)) if data.size else self._range
                self._range = (float(low), float(max(high, low + 1)))
        return self._range

    def _sample(self, max_px: int) -> np.ndarray:
        """Read the bands as stored at the centres of the thumbnail's pixels: (h, w, bands), no filter."""
        width, height, downsample = self._thumbnail_size(max_px)
        level = self._level_for(downsample)
        level_width, level_height = self.levels[level]
        columns = ((np.arange(width) + 0.5) * level_width / width).astype(int)
        rows = ((np.arange(height) + 0.5) * level_height / height).astype(int)
        if level_width * level_height <= MAX_READ_PX:
            whole, _, _ = self._reader.read(level, 0, 0, level_width, level_height)
            return np.asarray(whole[rows[:, None], columns])
        lines = [self._reader.read(level, 0, int(row), level_width, 1)[0][0, columns] for row in rows]
        return np.stack(lines)

    def _level_for(self, downsample: float) -> int:
        """Choose the smallest level that is not coarser than `downsample`."""
        return max(i for i, d in enumerate(self._downsamples) if i == 0 or max(d) <= downsample * 1.01)

    def thumbnail(self, max_px: int = 1024) -> np.ndarray:
        """Read the whole slide as (h, w, 3) uint8, its longer side at most `max_px` and never enlarged."""
        width, height, downsample = self._thumbnail_size(max_px)
        return self.read(0, 0, width, height, downsample)

    def nodata_mask(self, max_px: int = 1024) -> np.ndarray:
        """Find where a scene has no data in any band, NIR included.

        Args:
            max_px: longer side of the mask at most.

        Returns:
            (h, w) bool of the thumbnail's size, see SceneReader; False everywhere for slides.
        """
        if self.kind == "scene":
            return np.asarray(self._sample(max_px)[..., -1] == 0)
        width, height, _ = self._thumbnail_size(max_px)
        return np.zeros((height, width), bool)

    def _thumbnail_size(self, max_px: int) -> tuple[int, int, float]:
        downsample = max(1.0, max(self.width, self.height) / max_px)
        return max(1, round(self.width / downsample)), max(1, round(self.height / downsample)), downsample

    def downsample_for(self, mag: float | None = None, mpp: float | None = None, gsd_m: float | None = None) -> float:
        """Find how many level-0 pixels make a pixel of a resolution; 1 if none is given.

        Args:
            mag: magnification of a slide.
            mpp: um per pixel of a slide; wins over `mag`.
            gsd_m: metres per pixel of a scene.

        Raises:
            InputError: a resolution is not positive.
            SlideError: the file does not say its own resolution, or has another kind of it.
        """
        wanted = Resolution(mpp, mag, gsd_m)
        wanted.check(single=False)
        scale = wanted.scale()
        if scale is None:
            return 1.0
        if self.kind == "scene" and scale.unit != "m":
            raise SlideError(f"{self.path}: a scene has no magnification; use `gsd` (metres per pixel)")
        own = self.gsd_m if scale.unit == "m" else self.own_mpp
        if own is None and scale.unit == "m":
            raise SlideError(f"{self.path}: its pixel size in metres is not known: give `source_gsd`")
        if own is None:
            raise SlideError(
                f"{self.path}: no resolution in its metadata (openslide.mpp-x, aperio.MPP): "
                "give `source_mpp` (um per pixel) or `source_mag` (objective)"
            )
        downsample = scale.size / own
        if downsample < 0.5:
            log.warning("%s: asked for %.1fx finer pixels than it has", self.path, 1 / downsample)
        return downsample


def slide_name(path: Path) -> str:
    """Name a slide: its file without the suffixes."""
    return path.stem.removesuffix(".ome")


def open_slide(
    path: Path | str,
    source_mpp: float | None = None,
    source_mag: float | None = None,
    source_gsd: float | None = None,
    check: bool = True,
) -> Slide:
    """Open a slide, scene or image.

    Args:
        path: the file.
        source_mpp: um per level-0 pixel, where the metadata lack it or are wrong.
        source_mag: objective, likewise, meaning 10 / mag um; `source_mpp` wins over it.
        source_gsd: metres per level-0 pixel of a scene, likewise.
        check: read pixels, so that damage is found now rather than later: of a PNG or JPEG that is all of them.

    Raises:
        InputError: a resolution is not positive.
        SlideError: the file is missing, empty, not an image, truncated, or of unusable samples.
    """
    path, source = Path(path), Resolution(source_mpp, source_mag, source_gsd)
    source.check("source_", single=False)
    if path.is_dir():
        raise SlideError(f"{path}: a directory, not a slide")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise SlideError(f"{path}: cannot be opened: {error.strerror}") from error
    if empty:
        raise SlideError(f"{path}: an empty file (0 bytes)")
    return Slide(path, source, check)
