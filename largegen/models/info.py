"""What travels with a model's weights: name, encoder, licences, resolution, and what it was trained on."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

UNKNOWN = (None, "", 0)  # left out of model_index.json


@dataclass(frozen=True)
class TrainingSlide:
    """A slide or scene that a model was trained on, at the resolution that it was trained at."""

    name: str
    tiles: int | None = None  # that were embedded
    mpp: float | None = None  # um per pixel
    gsd_m: float | None = None  # metres per pixel, of a scene
    more: Mapping[str, Any] = field(default_factory=dict)  # keys of other versions, kept as they are

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainingSlide":
        """Read an entry of `trained_on` in model_index.json."""
        return cls(**_known_and_more(cls, {"name": ""} | dict(values)))

    def as_dict(self) -> dict[str, Any]:
        """Return the entry of `trained_on` in model_index.json."""
        return {"name": self.name, "tiles": self.tiles, "mpp": self.mpp, "gsd_m": self.gsd_m, **self.more}


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model beside its networks; compared with embedding files, and written to every image.

    Each field is a key of `info` in model_index.json; what is unknown is left out there. A model without a
    conditioner, which is a start for training, has no encoder.
    """

    name: str
    largegen_version: str = ""  # that wrote the model
    encoder: str = ""  # name of the encoder of its embeddings
    encoder_fingerprint: str | None = None  # of the encoder's weights; "" or None: any weights of that name are taken
    encoder_licence: str = ""
    licence: str = ""  # of the model's weights
    embedding_dim: int = 0  # D of its embeddings
    tile_px: int = 0  # side of a tile, px
    trained_on: tuple[TrainingSlide, ...] = ()
    init_from: str | None = None  # name of the model whose weights training started from
    converted_from: str | None = None  # the published checkpoint, with its revision on a hub
    region_encoder: str | None = None  # of the embeddings of regions, for models that take them
    mpp: float | None = None  # um per pixel of a converted model, whose slides are not known
    more: Mapping[str, Any] = field(default_factory=dict)  # keys of other versions, kept as they are

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelInfo":
        """Read `info` of model_index.json.

        Args:
            values: Its content; keys that this version does not know are kept in `more`.

        Raises:
            TypeError: Where `trained_on` is not a list of objects.
        """
        found = _known_and_more(cls, {"name": ""} | {key: value for key, value in values.items() if value is not None})
        slides = tuple(TrainingSlide.from_dict(slide) for slide in found.get("trained_on", ()))
        return cls(**found | {"trained_on": slides})

    def as_dict(self) -> dict[str, Any]:
        """Return `info` as it stands in model_index.json."""
        known = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "more"}
        known["trained_on"] = [slide.as_dict() for slide in self.trained_on]
        found = {key: value for key, value in known.items() if value not in UNKNOWN}
        if self.encoder:
            found["encoder_fingerprint"] = self.encoder_fingerprint  # null where unknown: always asked for
        return found | dict(self.more)

    @property
    def base_mpp(self) -> float | None:
        """Micrometres per pixel at the finest resolution that it was trained at; None where unknown, as for scenes."""
        return self.mpp or min((slide.mpp for slide in self.trained_on if slide.mpp), default=None)

    @property
    def base_gsd(self) -> float | None:
        """Metres per pixel of the finest scene that it was trained on; None where unknown, as for slides."""
        return min((slide.gsd_m for slide in self.trained_on if slide.gsd_m), default=None)


def _known_and_more(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Divide a JSON object into the fields of a class, and `more`: the rest."""
    known = {f.name for f in fields(cls)} - {"more"}
    more = {key: value for key, value in values.items() if key not in known}
    return {**{key: value for key, value in values.items() if key in known}, "more": more}
