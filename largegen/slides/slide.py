"""Open a slide, a scene or a plain image; read any region at any resolution.

Places are level-0 pixels, x to the right and y down, from the top-left corner; where pixels are no squares, they are
counted in squares of their shorter side. Resolution is micrometres per
level-0 pixel (`mpp`) for slides, metres (`gsd_m`) for scenes; `downsample` is level-0 per output pixels.
"""

import logging
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from largegen.errors import InputError, SlideError
from largegen.runtime.say import say_once
from largegen.slides.colour import WHITE, glass_colour, to_rgb
from largegen.slides.find import IMAGE_SUFFIXES, belonging
from largegen.slides.image_info import Georeference
from largegen.slides.metadata import AXES_APART, positive, size_of_pixels
from largegen.slides.place import Place, place_of_image
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
        mpp_from: "objective" where nothing but the objective tells `mpp`; else None.
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
        properties, said = self._reader.properties, self._reader.provenance
        # An image that was cropped or resized elsewhere is no longer what its header says.
        self.provenance = said if (said.get("width"), said.get("height")) == self.levels[0] else {}
        self.vendor = properties.get("openslide.vendor", "")
        self.mpp: float | None = None
        self.mpp_from: str | None = None
        self.magnification: float | None = None
        self._named_background: tuple[int, int, int] | None = None
        place = self._find_place()
        pixel = place.pixel
        self.kind = "slide"
        if isinstance(self._reader, SceneReader) or place.georeference or place.lost:
            self.kind = "scene"
            self.gsd_m = source.gsd or positive(self.provenance.get("gsd_m")) or (min(pixel) if place.metric else None)
            self._named_background = (0, 0, 0)
        else:
            if path.suffix.lower() in IMAGE_SUFFIXES:
                self.kind = "image"
            self.gsd_m = source.gsd or positive(self.provenance.get("gsd_m"))
            pixel = self._find_mpp(properties)
            if named := properties.get("openslide.background-color"):
                red, green, blue = bytes.fromhex(named)
                self._named_background = red, green, blue
        self._lay_square_pixels(pixel, place.georeference)
        self._range: tuple[float, float] | None = None

    def _find_place(self) -> Place:
        """Find where it lies: by its own header if it is a scene or an image of ours, else by a world file."""
        if isinstance(self._reader, SceneReader):
            return self._reader.place
        if self.provenance.get("transform"):
            a, b, c, d, e, f = self.provenance["transform"]
            return Place(Georeference(self.provenance.get("crs", ""), (a, b, c, d, e, f)))
        if self.path.suffix.lower() in IMAGE_SUFFIXES and belonging(self.path):
            return place_of_image(self.path)
        return Place()

    def _find_mpp(self, properties: Mapping[str, str]) -> tuple[float, float]:
        """Find resolution and magnification of a slide or image; returns width and height of a pixel in any unit."""
        source, said = self._source, positive(self.provenance.get("mpp"))
        self.magnification = source.mag or positive(properties.get("openslide.objective-power"))
        sizes = size_of_pixels(properties)
        if source.as_mpp or said:
            self.mpp = source.as_mpp or said
            self.mpp_from = None if source.as_mpp else self.provenance.get("mpp_from")
        elif sizes:
            self.mpp = min(sizes)
            if sizes[0] != sizes[1]:
                say_once(f"{self.path}: its pixels are {sizes[0]:.4g} x {sizes[1]:.4g} um; both are used")
                return sizes
        elif self.magnification:
            self.mpp, self.mpp_from = mpp_of(self.magnification), "objective"
            say_once(
                f"{self.path}: {self.mpp:.4g} um/px, derived from its objective of {self.magnification:g}x,"
                " as nothing else tells"
            )
        return 1.0, 1.0

    def _lay_square_pixels(self, pixel: tuple[float, float], place: Georeference | None) -> None:
        """Count places in squares as large as a pixel's shorter side: level-0 pixels, but where those are no squares.

        Args:
            pixel: width and height of a stored pixel, in any unit.
            place: where the stored pixels lie.
        """
        across, down = (side / min(pixel) for side in pixel)
        if max(across, down) <= 1 + AXES_APART:
            across = down = 1.0
        self.width, self.height = (round(n * k) for n, k in zip(self.levels[0], (across, down), strict=True))
        ratios = [level_downsample(self.levels[0], level) for level in self.levels]
        self._downsamples = [(x * across, y * down) for x, y in ratios]
        self.georeference = place
        if place is not None and (across, down) != (1.0, 1.0):
            a, b, c, d, e, f = place.transform
            self.georeference = Georeference(place.crs, (a / across, b / down, c, d / across, e / down, f))

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
    def scale(self) -> Scale:
        """The size of a level-0 pixel, in um before metres where both are known; PIXELS where neither is."""
        if self.mpp:
            return Scale("um", self.mpp)
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
        reader = self._reader
        shown = self._shown_range() if raw.dtype == np.uint16 or reader.white else None
        behind = (self._named_background or WHITE) if reader.has_alpha else None
        full = None if shown is None or self.kind == "scene" else int(shown[1])
        return to_rgb(raw, shown, behind, full=full, premultiplied=reader.premultiplied)

    def _shown_range(self) -> tuple[float, float]:
        """Find the values shown as 0 and 255: for slides 0 and white, for scenes the 2nd and 98th percentile.

        White is what the file says, else the largest number of the fewest bits, 8 to 16, that hold all that is seen:
        cameras of 10 to 14 bits are stored in 16. Scenes store reflectance in a small part of the 16 bits. The
        percentiles are those of a thumbnail's red, green and blue together: one stretch for every region and band.
        """
        if self._range is None and self._reader.white and self.kind != "scene":
            self._range = (0.0, float(self._reader.white))
        elif self._range is None:
            raw = self._sample(1024)
            data = raw[raw[..., -1] > 0][:, :-1] if self._reader.has_alpha else raw
            if self.kind == "scene":
                low, high = np.percentile(data, (2, 98)) if data.size else (0, 65535)
                self._range = (float(low), float(max(high, low + 1)))
            else:
                largest = int(data.max(initial=0))
                bits = next(n for n in (8, 10, 12, 14, 16) if largest < 2**n)
                if bits < 16:
                    say_once(f"{self.path}: taken for {bits} bits in 16, as nothing in it is brighter than {largest}")
                self._range = (0.0, float(2**bits - 1))
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
            raw = self._sample(max_px)
            return np.asarray(raw[..., -1] == 0 if self._reader.has_alpha else ~raw.any(axis=-1))
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
        own = self.gsd_m if scale.unit == "m" else self.mpp
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
