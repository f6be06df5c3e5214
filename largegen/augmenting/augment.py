"""Variations of labelled images as files: their embeddings, images made of these, and a table of labels."""

import csv
import io
import json
import logging
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from largegen.augmenting.items import Item
from largegen.augmenting.options import AugmentOptions
from largegen.augmenting.variations import STAIN_TILES, mixed, restained
from largegen.conditioning.open_reference import own_resolution
from largegen.conditioning.reference import encoder_of, file_reference
from largegen.embeddings.embed import embed_slide
from largegen.embeddings.file import EmbeddingFile, write_embeddings
from largegen.embeddings.options import EmbedOptions
from largegen.errors import InputError
from largegen.images.generate_file import generate_file
from largegen.models.encoder import Encoder, load_encoder
from largegen.models.model import Model
from largegen.runtime.files import atomic
from largegen.runtime.jobs import Job, Record, digest_of, run_jobs, stamp
from largegen.runtime.lock import lock
from largegen.sampling.settings import Sampling
from largegen.slides.find import IMAGE_SUFFIXES
from largegen.slides.resolution import UNKNOWN, Resolution
from largegen.slides.slide import open_slide

log = logging.getLogger(__name__)

SPLIT = "train"  # of all variations
EMBEDDINGS = "embeddings"  # the folder of the variations' embedding files, and of the originals'
LABELS = "labels.csv"
COLUMNS = ("file", "label", "split", "patient", "source", "seed", "mixed_with", "mix", "stain_jitter")


@dataclass(frozen=True)
class Variation:
    """One variation of one image. What is random about it follows from the seed, the image's name and its number."""

    item: Item
    number: int
    seed: int  # of the sampler's noise
    partner: Item | None  # that it is mixed with
    t: float  # how far
    stain_seed: int

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.item.name}-{self.number}"


def vary(items: Sequence[Item], options: AugmentOptions, seed: int) -> list[Variation]:
    """Draw the variations of all images."""
    found = []
    for item in items:
        mates = [other for other in items if other.label == item.label and other is not item] if options.mix else []
        for number in range(options.per_image):
            rng = np.random.default_rng([seed, zlib.crc32(item.name.encode()), number])
            own, stain = (int(n) for n in rng.integers(2**63, size=2))
            partner = mates[rng.integers(len(mates))] if mates else None
            found.append(Variation(item, number, own, partner, float(rng.uniform(0, options.mix)), stain))
    if options.mix and (alone := {v.item.label for v in found if v.partner is None}):
        log.warning("`mix`: %d classes have one image, %s first: not mixed", len(alone), min(alone))
    return found


class Augmenter:
    """Makes the variations of images, by any number of processes that share the work.

    Args:
        items: What is varied.
        out: Directory.
        model: Makes the images, and says which encoder's embeddings are varied.
        options: How images are varied.
        sampling: How images are made; its seed is that of everything random.
        source: Resolution of the images, where their metadata lack it.
        target: Resolution to work at; unknown: the model's own.
        encoder_weights: File of the encoder's weights, where no hub has them.
        command: For the provenance.

    Raises:
        InputError: For options that contradict each other, and labels that cannot be folders.
    """

    def __init__(
        self,
        items: Sequence[Item],
        out: Path,
        model: Model,
        options: AugmentOptions,
        sampling: Sampling,
        *,
        source: Resolution = UNKNOWN,
        target: Resolution = UNKNOWN,
        encoder_weights: Path | None = None,
        command: str = "",
    ) -> None:
        options.check()
        if wrong := [item.label for item in items if Path(item.label).name != item.label]:
            raise InputError(f"label {wrong[0]!r}: cannot be the name of a folder")
        self.items, self.out, self.model, self.options, self.sampling = items, out, model, options, sampling
        self.source, self.target, self.command = source, target, command
        self._weights = encoder_weights
        self._originals: dict[str, EmbeddingFile] = {}
        self.variations = vary(items, options, sampling.seed)
        trained = {slide.name for slide in model.info.trained_on} & {item.name for item in items}
        if trained:
            log.warning(
                "model %s was trained on %d of these %d images, %s first: their variations may repeat them",
                *(model.info.name, len(trained), len(items), min(trained)),
            )

    @cached_property
    def encoder(self) -> Encoder:
        """The model's."""
        return load_encoder(encoder_of(self.model), self._weights, self.model.device)

    def run(self, *, keep_going: bool = False, overwrite: bool = False, progress: bool = False) -> list[Record]:
        """Make all variations that are not there, and `labels.csv`.

        Images go to `train/<label>/<name>-<n>.png`, of slides `.tif`; the embeddings that they are made of to
        `embeddings/<name>-<n>.h5`, and those of the originals to `embeddings/originals/`.

        Args:
            keep_going: Go on with the others where one fails.
            overwrite: Make them anew.
            progress: Show progress bars.

        Returns:
            What is known of each variation.

        Raises:
            Exception: Of a variation that failed, unless `keep_going`.
        """
        by_output = {self._output(variation): variation for variation in self.variations}
        jobs = [
            Job(output, {"source": str(v.item.path), "label": v.item.label}, self._digest(v))
            for output, v in by_output.items()
        ]

        def work(job: Job) -> dict[str, Any]:
            return self._make(by_output[job.output], self.out / job.output, overwrite, progress)

        records = run_jobs(self.out, jobs, work, keep_going=keep_going, overwrite=overwrite)
        self._write_labels([record for record in records if record.state == "done"])
        return records

    def _output(self, variation: Variation) -> str:
        if self.options.embeddings_only:
            return f"{EMBEDDINGS}/{variation.name}.h5"
        suffix = ".png" if variation.item.path.suffix.lower() in IMAGE_SUFFIXES else ".tif"
        return f"{SPLIT}/{variation.item.label}/{variation.name}{suffix}"

    def _digest(self, variation: Variation) -> str:
        paths = [variation.item.path, *([variation.partner.path] if variation.partner else [])]
        options = replace(self.options, per_image=1)
        sampling = replace(self.sampling, batch_size=0)
        about = [asdict(options), asdict(sampling), self.source, self.target, self.model.info.as_dict()]
        return digest_of([stamp(path) for path in paths], variation.number, about)

    def _make(self, variation: Variation, path: Path, overwrite: bool, progress: bool) -> dict[str, Any]:
        item, options = variation.item, self.options
        file = self._original(item)
        grid, about = file.grid(), dict[str, Any](varied_from=item.name)
        if variation.partner:
            grid = mixed(grid, self._original(variation.partner).grid(), variation.t)
            about |= {"mixed_with": variation.partner.name, "mix": round(variation.t, 4)}
        if options.stain_jitter:
            rng = np.random.default_rng(variation.stain_seed)
            grid = restained(grid, self._tiles(item, file), self.encoder, options.stain_jitter, rng)
            about |= {"stain_jitter": options.stain_jitter, "stain_seed": variation.stain_seed}
        embeddings = self.out / EMBEDDINGS / f"{variation.name}.h5"
        settings = replace(file.settings, imagined=json.dumps(about) if len(about) > 1 else None)
        rows = grid.features[tuple(file.cells.T)]
        with lock(embeddings), atomic(embeddings) as temporary:
            write_embeddings(temporary, settings, file.coords(), rows, file.background, file.coords_attrs)
        if not options.embeddings_only:
            reference = file_reference(self.model, embeddings)
            area = reference.area(self.model, None)
            sampling = replace(self.sampling, seed=variation.seed)
            generate_file(
                self.model,
                reference.grid(area),
                area,
                path,
                sampling,
                command=self.command,
                overwrite=overwrite,
                progress=progress,
            )
        return about | {"source": str(item.path), "label": item.label, "patient": item.patient, "seed": variation.seed}

    def _original(self, item: Item) -> EmbeddingFile:
        """Embed an image, or find its embeddings from before."""
        if item.name not in self._originals:
            self._originals[item.name] = EmbeddingFile(self._embed(item))
        return self._originals[item.name]

    def _embed(self, item: Item) -> Path:
        with open_slide(item.path, *self.source) as slide:
            target = own_resolution(self.model, slide, self.target)
            options = EmbedOptions(tile_px=self.model.tile_px, tissue_filter=slide.kind != "image")
            return embed_slide(
                slide,
                self.encoder,
                self.out / EMBEDDINGS / "originals",
                options,
                downsample=target.downsample(slide),
                mag=target.magnification(slide),
                wait=True,
                progress=False,
            )

    def _tiles(self, item: Item, file: EmbeddingFile) -> np.ndarray:
        """Read some tiles of an image, evenly taken: (N, H, W, 3) uint8."""
        coords, s = file.coords(), file.settings
        few = coords[np.linspace(0, len(coords) - 1, min(STAIN_TILES, len(coords))).round().astype(int)]
        with open_slide(item.path, *self.source) as slide:
            return np.stack([slide.read(int(x), int(y), s.tile_px, s.tile_px, s.downsample) for x, y in few])

    def _write_labels(self, records: Sequence[Record]) -> None:
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        for record in records:
            table.writerow(record.report | {"file": record.output, "split": SPLIT})
        path = self.out / LABELS
        with lock(path, wait=True), atomic(path) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")
