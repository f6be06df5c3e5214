"""Open a slide, a scene or a plain image; read any region at any resolution.

Places are level-0 pixels, x to the right and y down, from the top-left corner. Resolution is micrometres per
level-0 pixel (`mpp`) for slides, metres (`gsd_m`) for scenes; `downsample` is level-0 per output pixels.
"""

import logging
import math
from functools import cached_property
from pathlib import Path

import numpy as np

from largegen.errors import InputError, SlideError
from largegen.slides.find import IMAGE_SUFFIXES
from largegen.slides.geotiff import Georeference, read_geotiff
from largegen.slides.readers import open_reader

log = logging.getLogger(__name__)

WHITE = (255, 255, 255)
LANCZOS_SUPPORT = 3
MAX_READ_PX = 2**24  # level pixels decoded at once; larger regions are read in bands


class Slide:
    """An open slide, scene or image, as `open_slide` gives it: a context manager, picklable for workers.

    path, name (its stem); kind: "slide", "scene" or "image"; width, height: in level-0 pixels; levels: sizes.
    mpp: um per level-0 pixel, None for scenes or if unknown; gsd_m: metres per level-0 pixel of a scene;
    magnification: the objective in the metadata or `source_mag`, never derived; background: see there.
    provenance: what an image of ours says of itself, else empty; lossy: whether its pixels are stored as JPEG or so.
    """

    def __init__(self, path: Path, sources: tuple[float | None, float | None, float | None], check: bool):
        self.path = path
        self.name = path.stem.removesuffix(".ome")
        self._sources = source_mpp, source_mag, source_gsd = sources
        self._reader = open_reader(path, check)
        self.reader, self.lossy = self._reader.name, self._reader.lossy
        self.levels = self._reader.levels
        self.width, self.height = self.levels[0]
        self._downsamples = [level_downsample(self.levels[0], level) for level in self.levels]
        properties, said = self._reader.properties, self._reader.provenance
        # An image that was cropped or resized elsewhere is no longer what its header says.
        self.provenance = said if (said.get("width"), said.get("height")) == self.levels[0] else {}
        self.vendor = properties.get("openslide.vendor", "")
        geo = read_geotiff(path) if path.suffix.lower() in (".tif", ".tiff") else None
        self.georeference: Georeference | None = geo.georeference if geo else None
        self._nodata = (geo.nodata if geo else None) or 0
        self.kind = "scene" if geo else "image" if path.suffix.lower() in IMAGE_SUFFIXES else "slide"
        self.gsd_m = source_gsd or (geo.gsd_m if geo else positive(self.provenance.get("gsd_m")))
        self.mpp = self.magnification = None
        if not geo:
            own = self.provenance.get("mpp") or properties.get("openslide.mpp-x")
            self.magnification = source_mag or positive(properties.get("openslide.objective-power"))
            nominal = 10 / source_mag if source_mag else None
            self.mpp = source_mpp or nominal or positive(own)
        named = properties.get("openslide.background-color")
        self._named_background = (0, 0, 0) if geo else tuple(bytes.fromhex(named)) if named else None
        self._range: tuple[float, float] | None = None

    def __reduce__(self):
        return open_slide, (self.path, *self._sources)

    def __enter__(self) -> "Slide":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._reader.close()

    @cached_property
    def background(self) -> tuple[int, int, int]:
        """Colour of empty glass: as the metadata name it, else as a thumbnail shows it; black for scenes."""
        return self._named_background or glass_colour(self._resample(0, 0, *self._thumbnail_size(512)))

    def read(self, x: float, y: float, width: int, height: int, downsample: float = 1.0) -> np.ndarray:
        """Read a region as (height, width, 3) uint8 RGB.

        x, y: its top-left corner in level-0 pixels, which may lie outside; width, height: in output pixels,
        each covering `downsample` level-0 pixels. From the nearest larger pyramid level, by an antialiased
        Lanczos filter that is exact to a fraction of a pixel, so neighbouring regions join without a seam.
        Pixels whose centre is outside the slide have its background colour. Raises SlideError where the file
        is damaged.
        """
        if width < 1 or height < 1 or not downsample > 0:
            raise InputError(f"{self.path}: cannot read {width}x{height} px at downsample {downsample}")
        out = np.empty((height, width, 3), np.uint8)
        left, right = _inside(x, width, downsample, self.width)
        top, bottom = _inside(y, height, downsample, self.height)
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
        x0, x1 = _with_margin(left, width, scale_x)
        y0, y1 = _with_margin(top, height, scale_y)
        pixels, x0, y0 = self._read_level(level, x0, y0, x1, y1)
        box = (left - x0, top - y0, left - x0 + width * scale_x, top - y0 + height * scale_y)
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
        """Bands as stored => (h, w, 3) uint8: grey repeated, alpha laid on the named colour or white, NIR dropped."""
        bands = raw.shape[2]
        has_alpha = bands in (2, 4) and self.kind != "scene"
        colour = raw[..., :3] if bands >= 3 else raw[..., :1].repeat(3, axis=2)
        if raw.dtype == np.uint16:
            low, high = self._sixteen_bit_range()
            colour = np.clip((colour - low) * (255 / (high - low)) + 0.5, 0, 255).astype(np.uint8)
        if has_alpha:
            alpha = raw[..., -1:] / np.float32(np.iinfo(raw.dtype).max)
            behind = np.float32(self._named_background or WHITE)
            colour = (colour * alpha + behind * (1 - alpha) + 0.5).astype(np.uint8)
        if self.kind == "scene":
            colour = np.where(self._is_nodata(raw)[..., None], np.uint8(self.background), colour)
        return colour

    def _sixteen_bit_range(self) -> tuple[float, float]:
        """The values shown as 0 and 255: 0..65535, or for scenes the 2nd and 98th percentile.

        Scenes store reflectance in a small part of the 16 bits. The percentiles are those of a thumbnail's
        red, green and blue together: one stretch for every region and band.
        """
        if self._range is None:
            self._range = (0.0, 65535.0)
            if self.kind == "scene":
                raw = self._sample(1024)
                data = raw[~self._is_nodata(raw)][:, :3]
                low, high = np.percentile(data, (2, 98)) if data.size else self._range
                self._range = (float(low), float(max(high, low + 1)))
        return self._range

    def _is_nodata(self, raw: np.ndarray) -> np.ndarray:
        return (raw == self._nodata).all(axis=2)

    def _sample(self, max_px: int) -> np.ndarray:
        """Bands as stored at the centres of the thumbnail's pixels: (h, w, bands), no filter."""
        width, height, downsample = self._thumbnail_size(max_px)
        level = self._level_for(downsample)
        level_width, level_height = self.levels[level]
        columns = ((np.arange(width) + 0.5) * level_width / width).astype(int)
        rows = ((np.arange(height) + 0.5) * level_height / height).astype(int)
        lines = [self._reader.read(level, 0, int(row), level_width, 1)[0][0, columns] for row in rows]
        return np.stack(lines)

    def _level_for(self, downsample: float) -> int:
        """The smallest level that is not coarser than `downsample`."""
        return max(i for i, d in enumerate(self._downsamples) if i == 0 or max(d) <= downsample * 1.01)

    def thumbnail(self, max_px: int = 1024) -> np.ndarray:
        """The whole slide as (h, w, 3) uint8, its longer side at most `max_px` and never enlarged."""
        width, height, downsample = self._thumbnail_size(max_px)
        return self.read(0, 0, width, height, downsample)

    def nodata_mask(self, max_px: int = 1024) -> np.ndarray:
        """(h, w) bool of the thumbnail's size: True where a scene has no data in any band, NIR included.

        No data is the GDAL_NODATA value, or 0 where the file names none. False everywhere for slides.
        """
        if self.kind == "scene":
            return self._is_nodata(self._sample(max_px))
        width, height, _ = self._thumbnail_size(max_px)
        return np.zeros((height, width), bool)

    def _thumbnail_size(self, max_px: int) -> tuple[int, int, float]:
        downsample = max(1.0, max(self.width, self.height) / max_px)
        return max(1, round(self.width / downsample)), max(1, round(self.height / downsample)), downsample

    def downsample_for(self, mag: float | None = None, mpp: float | None = None, gsd_m: float | None = None) -> float:
        """Level-0 pixels per pixel at a magnification (10 / mag um/px), mpp or gsd_m; 1 if none is given.

        Raises SlideError, with the flag that helps, where the file does not say its own resolution.
        """
        if mag is None and mpp is None and gsd_m is None:
            return 1.0
        if any(value is not None and not value > 0 for value in (mag, mpp, gsd_m)):
            raise InputError(f"{self.path}: a resolution must be positive: {mag=}, {mpp=}, {gsd_m=}")
        if self.kind == "scene" or gsd_m is not None:
            downsample = self._scene_downsample(gsd_m)
        else:
            own = self.mpp or (10 / self.magnification if self.magnification else None)
            if own is None:
                raise SlideError(
                    f"{self.path}: no resolution in its metadata (openslide.mpp-x, aperio.MPP): "
                    "give --source-mpp (um per pixel) or --source-mag (objective)"
                )
            downsample = (mpp if mpp is not None else 10 / mag) / own
        if downsample < 0.5:
            log.warning("%s: asked for %.1fx finer pixels than it has", self.path, 1 / downsample)
        return downsample

    def _scene_downsample(self, gsd_m: float | None) -> float:
        if gsd_m is None:
            raise SlideError(f"{self.path}: a scene has no magnification; use --gsd (metres per pixel)")
        if self.gsd_m is None:
            raise SlideError(f"{self.path}: its pixel size in metres is not known: give --source-gsd")
        return gsd_m / self.gsd_m


def open_slide(
    path: Path | str,
    source_mpp: float | None = None,
    source_mag: float | None = None,
    source_gsd: float | None = None,
    check: bool = True,
) -> Slide:
    """Open a slide, scene or image; `source_*` supply or override the resolution in its metadata.

    `source_mpp`: um per level-0 pixel; `source_mag`: objective, meaning 10 / mag um; `source_gsd`: metres.
    check: read pixels, so that damage is found now rather than later: of a PNG or JPEG that is all of them.
    Raises SlideError for a file that is missing, empty, not an image, truncated, or of unusable samples.
    """
    path = Path(path)
    for flag, value in (("mpp", source_mpp), ("mag", source_mag), ("gsd", source_gsd)):
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise InputError(f"--source-{flag} {value}: must be a positive number")
    if path.is_dir():
        raise SlideError(f"{path}: a directory, not a slide")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise SlideError(f"{path}: cannot be opened: {error.strerror}") from error
    if empty:
        raise SlideError(f"{path}: an empty file (0 bytes)")
    return Slide(path, (source_mpp, source_mag, source_gsd), check)


def _inside(start: float, count: int, step: float, size: int) -> tuple[int, int]:
    """Indices [first, stop) of `count` pixels of width `step` from `start` whose centres lie in [0, size)."""
    first = max(0, math.ceil(-start / step - 0.5))
    return first, max(first, min(count, math.ceil((size - start) / step - 0.5)))


def _with_margin(start: float, count: int, scale: float) -> tuple[int, int]:
    """The whole pixels of a level that the filter sees for `count` output pixels from `start`."""
    margin = math.ceil(LANCZOS_SUPPORT * max(1.0, scale)) + 1
    return math.floor(start) - margin, math.ceil(start + count * scale) + margin


def level_downsample(full: tuple[int, int], level: tuple[int, int]) -> tuple[float, float]:
    """Level-0 pixels per pixel of a level, (x, y): whole where the size differs from it by rounding only.

    Rounding leaves several whole numbers possible for a small level; a power of two is the likeliest.
    """
    ratio = full[0] / level[0]
    for whole in (2 ** max(0, round(math.log2(ratio))), round(ratio)):
        if all(abs(size / whole - part) <= 1 for size, part in zip(full, level, strict=True)):
            return float(whole), float(whole)
    return ratio, full[1] / level[1]


def positive(value: object) -> float | None:
    """A property as a positive number, or None where it is missing or not one."""
    try:
        number = float(str(value or ""))
    except ValueError:
        return None
    return number if number > 0 and math.isfinite(number) else None


def glass_colour(pixels: np.ndarray) -> tuple[int, int, int]:
    """The median of the bright, colourless ones of (h, w, 3) uint8 pixels; white if fewer than 1 % are such."""
    highest, lowest = pixels.max(axis=2).astype(int), pixels.min(axis=2)
    glass = pixels[(highest > 200) & (highest - lowest < 0.05 * highest)]  # saturation below 0.05
    return tuple(int(v) for v in np.median(glass, axis=0)) if 100 * len(glass) >= highest.size else WHITE
