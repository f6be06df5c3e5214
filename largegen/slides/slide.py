"""Open a slide, a scene or a plain image; read any region at any resolution.

Places are level-0 pixels, x to the right and y down, from the top-left corner; where pixels are no squares, they are
counted in squares of their shorter side. Resolution is micrometres per level-0 pixel (`mpp`) for slides, metres
(`gsd_m`) for scenes; `downsample` is level-0 per output pixels.
"""

import logging
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from largegen.errors import InputError, SlideError
from largegen.runtime.files import START_BYTES, stand_in
from largegen.runtime.say import say_once
from largegen.slides.colour import glass_colour
from largegen.slides.find import IMAGE_SUFFIXES, belonging
from largegen.slides.image_info import Georeference
from largegen.slides.metadata import AXES_APART, positive, size_of_pixels
from largegen.slides.pixels import Pixels
from largegen.slides.place import Place, place_of_image
from largegen.slides.pyramid import inside, level_downsample, thumbnail_size
from largegen.slides.readers import Reader, open_reader
from largegen.slides.resolution import PIXELS, Resolution, Scale, mpp_of
from largegen.slides.scene_reader import SceneReader

log = logging.getLogger(__name__)


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
        downsamples = self._lay_square_pixels(pixel, place.georeference)
        size, scene = (self.width, self.height), self.kind == "scene"
        self._pixels = Pixels(path, self._reader, size, downsamples, scene, self._named_background)

    def _find_place(self) -> Place:
        """Find where it lies: by its own header if it is a scene or an image of ours, else by a world file."""
        if isinstance(self._reader, SceneReader):
            return self._reader.place
        if self.provenance.get("transform"):
            a, b, c, d, e, f = self.provenance["transform"]
            return Place(Georeference(self.provenance.get("crs", ""), (a, b, c, d, e, f)))
        if self.path.suffix.lower() in IMAGE_SUFFIXES and belonging(self.path):
            place = place_of_image(self.path)
            if place.lost:
                say_once(f"{self.path}: {place.lost}")
            return place
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

    def _lay_square_pixels(self, pixel: tuple[float, float], place: Georeference | None) -> list[tuple[float, float]]:
        """Count places in squares as large as a pixel's shorter side: level-0 pixels, but where those are no squares.

        Args:
            pixel: width and height of a stored pixel, in any unit.
            place: where the stored pixels lie.

        Returns:
            Level-0 pixels per pixel of each level, (x, y).
        """
        across, down = (side / min(pixel) for side in pixel)
        if max(across, down) <= 1 + AXES_APART:
            across = down = 1.0
        self.width, self.height = (round(n * k) for n, k in zip(self.levels[0], (across, down), strict=True))
        ratios = [level_downsample(self.levels[0], level) for level in self.levels]
        self.georeference = place
        if place is not None and (across, down) != (1.0, 1.0):
            a, b, c, d, e, f = place.transform
            self.georeference = Georeference(place.crs, (a / across, b / down, c, d / across, e / down, f))
        return [(x * across, y * down) for x, y in ratios]

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
        return self._named_background or glass_colour(
            self._pixels.read(0, 0, *thumbnail_size((self.width, self.height), 512))
        )

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
            out[top:bottom, left:right] = self._pixels.read(*start, right - left, bottom - top, downsample)
        return out

    def thumbnail(self, max_px: int = 1024) -> np.ndarray:
        """Read the whole slide as (h, w, 3) uint8, its longer side at most `max_px` and never enlarged."""
        width, height, downsample = thumbnail_size((self.width, self.height), max_px)
        return self.read(0, 0, width, height, downsample)

    def nodata_mask(self, max_px: int = 1024) -> np.ndarray:
        """Find where a scene has no data in any band, NIR included.

        Args:
            max_px: longer side of the mask at most.

        Returns:
            (h, w) bool of the thumbnail's size, see SceneReader; False everywhere for slides.
        """
        if self.kind == "scene":
            raw = self._pixels.sample(max_px)
            return np.asarray(raw[..., -1] == 0 if self._reader.has_alpha else ~raw.any(axis=-1))
        width, height, _ = thumbnail_size((self.width, self.height), max_px)
        return np.zeros((height, width), bool)

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
            what = stand_in(file.read(START_BYTES))
    except OSError as error:
        raise SlideError(f"{path}: cannot be opened: {error.strerror}") from error
    if what:
        raise SlideError(f"{path}: {what}")
    return Slide(path, source, check)
