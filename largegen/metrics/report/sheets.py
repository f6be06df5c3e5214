"""Images to look at beside the figures: crops of both sets, nearest real crops to generated ones, whole images."""

from collections.abc import Iterator, Sequence

import numpy as np

from largegen.errors import SlideError
from largegen.metrics.comparison import Comparison, SetPair
from largegen.metrics.distances.precision_recall import nearest
from largegen.metrics.per_image.guide import guide_of
from largegen.metrics.report.html import Sheet, SheetRow, Thumbnail, thumbnails
from largegen.metrics.report.links import ViewerLinks
from largegen.metrics.sets.crops import Crops, Samples
from largegen.metrics.sets.images import ResolutionGroup, SetImage
from largegen.metrics.sets.sets import Sets
from largegen.slides.slide import open_slide

SHOWN_CROPS = 32  # crops of each set, over all resolutions
QUERY_CROPS = 8  # generated crops whose nearest real ones are shown, likewise
NEIGHBOURS_PER_CROP = 4
SHOWN_IMAGES = 4  # images
THUMBNAIL_PX = 768


def sheets_of(comparison: Comparison, links: ViewerLinks | None = None) -> list[Sheet]:
    """Make all sheets of an evaluation, resolution by resolution; links: to the generated images in a viewer."""
    sets, sheets = comparison.sets, []
    for group in sets.groups:
        spaces = [c for (name, _), c in comparison.done.items() if name == group.name]
        of_crops = [c for c in spaces if isinstance(c.fake_samples, Crops)]
        if of_crops:
            sheets.append(_contact_sheet(group, of_crops[0], -(-SHOWN_CROPS // len(sets.groups)), links))
        if of_crops:
            sheets += _nearest_sheet(group, of_crops[-1], -(-QUERY_CROPS // len(sets.groups)), links)
        sheets += _whole_sheet(group, sets, links)
    return sheets


def _contact_sheet(group: ResolutionGroup, compared: SetPair, shown: int, links: ViewerLinks | None) -> Sheet:
    rows = []
    for title, samples, kept in (
        ("Real", compared.real_samples, compared.real_kept),
        ("Generated", compared.fake_samples, compared.fake_kept),
    ):
        if samples is not None and kept is not None:
            chosen = _evenly(kept, shown)
            linked = _links(samples, chosen, links if title == "Generated" else None)
            rows.append(SheetRow(title, thumbnails(samples.read(chosen), links=linked)))
    return Sheet("Crops", "Taken evenly from both sets.", group.name, tuple(rows), beside=True)


def _nearest_sheet(
    group: ResolutionGroup, compared: SetPair, looked_up: int, links: ViewerLinks | None
) -> Iterator[Sheet]:
    """Show generated crops, each followed by its nearest real ones among those whose features were kept."""
    if compared.real_samples is None or compared.real_kept is None:  # saved statistics, which hold no crops
        return
    chosen = _evenly(np.arange(len(compared.fake.features)), looked_up)
    count = min(NEIGHBOURS_PER_CROP, len(compared.real.features))
    found, distances = nearest(compared.fake.features[chosen], compared.real.features, count)
    rows = []
    for number, neighbours, far in zip(chosen, found, distances, strict=True):
        index = [compared.fake_kept[number]]
        link = _links(compared.fake_samples, index, links)
        (generated,) = thumbnails(compared.fake_samples.read(index), ["generated"], link)
        real = compared.real_samples.read(compared.real_kept[neighbours])
        rows.append(SheetRow("", (generated, *thumbnails(real, [f"{d:.3g}" for d in far]))))
    caption = (
        f"The {count} nearest of {len(compared.real.features)} real crops, by distance in {compared.network.title}'s"
        " space. One that looks the same is a memorised training image, or the image was conditioned on it."
    )
    yield Sheet("Nearest real crops", caption, group.name, tuple(rows))


def _whole_sheet(group: ResolutionGroup, sets: Sets, links: ViewerLinks | None) -> Iterator[Sheet]:
    rows = []
    images = [image for image in group.fake if image.path not in sets.left_out]
    for image in images[:SHOWN_IMAGES]:
        if max(image.width, image.height) < THUMBNAIL_PX:
            continue
        try:
            rows.append(_whole_row(image, links))
        except SlideError as error:
            sets.leave_out(image.path, error)
    if rows:
        caption = f"The first {len(rows)} of {len(images)}." if len(rows) < len(images) else ""
        yield Sheet("Whole images", caption, group.name, tuple(rows), shown_px=320)


def _whole_row(image: SetImage, links: ViewerLinks | None) -> SheetRow:
    shown = [Thumbnail(_thumbnail(image), image.path.name, links.to(image.path) if links else "")]
    guide = guide_of(image.path, image.provenance)
    if guide:
        with open_slide(guide) as slide:
            shown.insert(0, Thumbnail(slide.thumbnail(THUMBNAIL_PX), "its guide"))
    return SheetRow("", tuple(shown))


def _thumbnail(image: SetImage) -> np.ndarray:
    with image.open() as slide:
        return slide.thumbnail(THUMBNAIL_PX)


def _links(samples: Samples, indices: Sequence[int] | np.ndarray, links: ViewerLinks | None) -> list[str]:
    """Link crops to their middles in the viewer; empty where there is no viewer, or these are no crops."""
    if links is None or not isinstance(samples, Crops):
        return []
    found = []
    for number, x, y in samples.places[np.asarray(indices, np.int64)].tolist():
        image = samples.images[number]
        half = samples.settings.size_px * image.downsample / 2
        found.append(links.to(image.path, (x + half, y + half)))
    return found


def _evenly(numbers: np.ndarray, count: int) -> np.ndarray:
    """Take up to `count` of the numbers, evenly taken."""
    taken: np.ndarray = numbers[np.linspace(0, len(numbers) - 1, min(count, len(numbers))).round().astype(int)]
    return taken
