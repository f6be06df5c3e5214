"""Variations of labelled images as files: their embeddings, images made of these, and a table of labels."""

import csv
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from largegen.augmenting import checks
from largegen.augmenting.items import Item
from largegen.augmenting.options import AugmentOptions
from largegen.augmenting.originals import Originals, evenly
from largegen.augmenting.plan import Variation, vary
from largegen.augmenting.variations import STAIN_TILES, mixed, restained
from largegen.conditioning.reference import file_reference
from largegen.embeddings.embed import embed_slide
from largegen.embeddings.file import write_embeddings
from largegen.embeddings.options import EmbedOptions
from largegen.errors import InputError, LargegenError
from largegen.images.generate_file import generate_file
from largegen.models.model import Model
from largegen.runtime.files import atomic
from largegen.runtime.jobs import Job, Record, digest_of, run_jobs, stamp
from largegen.runtime.lock import lock
from largegen.sampling.settings import Sampling
from largegen.slides.find import IMAGE_SUFFIXES
from largegen.slides.resolution import UNKNOWN, Resolution
from largegen.slides.slide import open_slide
from largegen.slides.tiles import tile_grid

log = logging.getLogger(__name__)

SPLIT = "train"  # of all variations
EMBEDDINGS = "embeddings"  # the folder of the variations' embedding files; conditions and originals lie below
CONDITIONS = "conditions"
LABELS = "labels.csv"
COLUMNS = (
    *("file", "label", "split", "patient", "source", "seed", "mixed_with", "mix", "stain_jitter"),
    *("nearest", "similarity", "nearest_held_out", "held_out_similarity", "st_lpips"),  # see checks.py
)


class Augmenter:
    """Makes the variations of images, by any number of processes that share the work.

    Args:
        items: What is varied.
        out: Directory.
        model: Makes the images, and says which encoder's embeddings are varied.
        options: How images are varied.
        sampling: How images are made; its seed is that of everything random.
        held_out: What is not in train, which variations are compared with.
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
        held_out: Sequence[Item] = (),
        source: Resolution = UNKNOWN,
        target: Resolution = UNKNOWN,
        encoder_weights: Path | None = None,
        command: str = "",
    ) -> None:
        options.check()
        labels = sorted({item.label for item in items})
        if wrong := [label for label in labels if label in (".", "..") or Path(label).name != label]:
            raise InputError(f"{len(wrong)} labels cannot be names of folders, {wrong[0]!r} first")
        self.items, self.held_out, self.out, self.model = list(items), list(held_out), out, model
        self.options, self.sampling, self.command = options, sampling, command
        self.originals = Originals(
            model, out / EMBEDDINGS, held_out, source=source, target=target, encoder_weights=encoder_weights
        )
        for known, effect in ((items, "variations may repeat them"), (held_out, "figures on them say too much")):
            if seen := checks.seen_in_training(model.info, known):
                log.warning(
                    "model %s was trained on %d of these %d images%s, or on slides of their names, %s first: %s",
                    *(model.info.name, len(seen), len(known), " of other splits" if known is held_out else ""),
                    *(min(seen), effect),
                )

    def run(
        self, *, keep_going: bool = False, overwrite: bool = False, progress: bool = False
    ) -> tuple[list[Record], dict[str, Any]]:
        """Make all variations that are not there, and, where others are not still at work, `labels.csv`.

        Images go to `train/<label>/<name>-<n>.png`, of slides `.tif`, and their embeddings to
        `embeddings/<name>-<n>.h5`; the embeddings that they are made of to `embeddings/conditions/<name>-<n>.h5`, and
        those of the originals to `embeddings/originals/`. What shows the same as what is held out is not varied.

        Args:
            keep_going: Go on with the others where one fails.
            overwrite: Make them anew.
            progress: Show progress bars.

        Returns:
            What is known of each variation, and what comparisons found, see `checks.summary`; nothing while others are
            still at work, or without `compare`.

        Raises:
            InputError: Where no image is left to vary.
            Exception: Of a variation that failed, unless `keep_going`.
        """
        held_out: list[Item] = []
        if self.options.compare:
            held_out, lost = self._readable(self.held_out, keep_going=True)
            if lost:
                log.warning("%d images that are not in train are not compared with: %s", len(lost), lost[0])
        varied = self._without_shown(held_out, keep_going)
        variations = vary(varied, self.options, self.sampling.seed)
        by_output = {self._output(variation): variation for variation in variations}
        jobs = [
            Job(output, {"source": str(v.item.path), "label": v.item.label}, self._digest(v))
            for output, v in by_output.items()
        ]

        def work(job: Job) -> dict[str, Any]:
            return self._make(by_output[job.output], self.out / job.output, overwrite, progress)

        records = run_jobs(self.out, jobs, work, keep_going=keep_going, overwrite=overwrite)
        done = [(by_output[record.output], record.report) for record in records if record.state == "done"]
        rows = [report | {"file": self._output(v), "split": SPLIT} for v, report in done]
        found: dict[str, Any] = {}
        if all(record.state in ("done", "failed") for record in records):  # else whoever is still at work does it
            if self.options.compare and rows:
                made, images = [v for v, _ in done], not self.options.embeddings_only
                found = checks.compare(self.originals, self.out, made, rows, varied, held_out, images)
            self._write_labels(rows)
        return records, found

    def _readable(self, items: Sequence[Item], keep_going: bool) -> tuple[list[Item], list[str]]:
        """Embed images: those that can be, and what was wrong with the others."""
        found, lost = [], []
        for item in items:
            try:
                self.originals.file(item)
                found.append(item)
            except LargegenError as error:
                if not keep_going:
                    raise
                lost.append(str(error))
        return found, lost

    def _without_shown(self, held_out: Sequence[Item], keep_going: bool) -> list[Item]:
        """Leave out images that show what one that is held out shows."""
        if not held_out:
            return self.items
        readable, _ = self._readable(self.items, keep_going)  # the others fail again in their own jobs, which say so
        shown = checks.shown_twice(self.originals, readable, held_out)
        if shown:
            name = min(shown)
            log.warning(
                "%d of %d images of train show what an image that is not in train shows, %s first (%s): not varied",
                *(len(shown), len(self.items), name, shown[name].path),
            )
        left = [item for item in self.items if item.name not in shown]
        if not left:
            raise InputError("every image of train shows what an image that is not in train shows: nothing to vary")
        return left

    def _output(self, variation: Variation) -> str:
        if self.options.embeddings_only:
            return f"{EMBEDDINGS}/{variation.name}.h5"
        suffix = ".png" if variation.item.path.suffix.lower() in IMAGE_SUFFIXES else ".tif"
        return f"{SPLIT}/{variation.item.label}/{variation.name}{suffix}"

    def _digest(self, variation: Variation) -> str:
        paths = [variation.item.path, *([variation.partner.path] if variation.partner else [])]
        options = replace(self.options, per_image=1, compare=True)
        sampling = replace(self.sampling, batch_size=0)
        resolutions = [self.originals.source, self.originals.target]
        about = [asdict(options), asdict(sampling), *resolutions, self.model.info.as_dict()]
        return digest_of([stamp(path) for path in paths], variation.number, about)

    def _make(self, variation: Variation, path: Path, overwrite: bool, progress: bool) -> dict[str, Any]:
        item, options = variation.item, self.options
        file = self.originals.file(item)
        grid, about = file.grid(), dict[str, Any](varied_from=item.name)
        if variation.partner:
            grid = mixed(grid, self.originals.file(variation.partner).grid(), variation.t)
            about |= {"mixed_with": variation.partner.name, "mix": round(variation.t, 4)}
        if options.stain_jitter:
            rng = np.random.default_rng(variation.stain_seed)
            tiles = self.originals.tiles(item, evenly(file.count, STAIN_TILES))
            grid = restained(grid, tiles, self.originals.encoder, options.stain_jitter, rng)
            about |= {"stain_jitter": options.stain_jitter, "stain_seed": variation.stain_seed}
        own = self.out / EMBEDDINGS / f"{variation.name}.h5"
        condition = own if options.embeddings_only else own.parent / CONDITIONS / own.name
        varied = options.embeddings_only or len(about) > 1
        settings = replace(file.settings, imagined=json.dumps(about) if varied else None)
        rows = grid.features[tuple(file.cells.T)]
        with lock(condition), atomic(condition) as temporary:
            write_embeddings(temporary, settings, file.coords(), rows, file.background, file.coords_attrs)
        if not options.embeddings_only:
            reference = file_reference(self.model, condition)
            area = reference.area(self.model, None)
            generate_file(
                self.model,
                reference.grid(area),
                area,
                path,
                replace(self.sampling, seed=variation.seed),
                command=self.command,
                overwrite=overwrite,
                progress=progress,
            )
            self._embed_again(path, reference.tissue)
        return about | {"source": str(item.path), "label": item.label, "patient": item.patient, "seed": variation.seed}

    def _embed_again(self, image: Path, tissue: np.ndarray) -> None:
        """Embed an image that was made, at its own resolution: what a classifier that works on embeddings learns from.

        tissue: (rows, cols) bool, the tiles to embed: those that it was made of.
        """
        options = EmbedOptions(tile_px=self.model.tile_px, tissue_filter=False)
        with open_slide(image) as slide:
            plan = tile_grid(slide, 1.0, self.model.tile_px), tissue
            embed_slide(
                slide,
                self.originals.encoder,
                self.out / EMBEDDINGS,
                options,
                downsample=1.0,
                plan=plan,
                overwrite=True,
                wait=True,
                progress=False,
            )

    def _write_labels(self, rows: Sequence[dict[str, Any]]) -> None:
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        path = self.out / LABELS
        with lock(path, wait=True), atomic(path) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")
