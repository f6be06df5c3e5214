"""What an evaluation is asked for: which metrics, in the spaces of which networks, of which crops."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from largegen.errors import InputError
from largegen.metrics.catalogue import CATALOGUE
from largegen.metrics.sets.crops import CropSettings
from largegen.metrics.sets.images import ResolutionGroup, SetImage

if TYPE_CHECKING:
    import torch


STARTER = "starter"  # the bundled encoder
VGG = "vgg16"  # the network of perceptual distances, which fd and its like take in an encoder's place
METRIC_NAMES = tuple(f"{name}:ENCODER" if kind.spaces == ("encoder",) else name for name, kind in CATALOGUE.items())


@dataclass(frozen=True)
class Metric:
    """A metric that is asked for."""

    name: str  # as it is given: crop-fid, fd:uni_v1
    kind: str  # crop-fid, fd
    network: str | None  # whose features it compares, as networks.load_network names it; None for single images


def parse_metric(text: str) -> Metric:
    """Parse `crop-fid`, `kid`, `kid:starter`, `fd:uni_v1`, `fd:vgg16`... Raises InputError for what is no metric."""
    kind, colon, encoder = text.partition(":")
    spaces = CATALOGUE[kind].spaces if kind in CATALOGUE else ()
    if encoder and "encoder" in spaces:
        return Metric(text, kind, VGG if encoder == VGG else f"encoder:{encoder}")
    own = [space for space in spaces if space != "encoder"]
    if kind in CATALOGUE and not colon and (own or not spaces):
        return Metric(text, kind, own[0] if own else None)
    both = " and ".join(name for name, kind in CATALOGUE.items() if "encoder" in kind.spaces and len(kind.spaces) > 1)
    raise InputError(f"`metrics` {text}: unknown; use {', '.join(METRIC_NAMES)}; {both} take :ENCODER as well")


@dataclass(frozen=True)
class EvaluationConfig:
    """What an evaluation is asked for."""

    crops: CropSettings
    device: "torch.device"
    metrics: tuple[Metric, ...] = ()  # none: all that inputs and weights at hand allow
    encoder: str | None = None  # of fd and its like; None: the starter, and what images were made with
    weights: dict[str, Path | None] = field(default_factory=dict)  # files of "inception", "clip" and "encoder"
    replicates: int = 20  # of the bootstrap; 0 for no intervals
    batch_size: int = 32
    workers: int = 2  # threads that read crops

    def check(self) -> None:
        """Raise InputError for settings that do not go together."""
        if self.replicates == 1:
            raise InputError("`replicates` 1: an interval takes two or more; 0 is for none")
        encoders = {metric.network for metric in self.metrics if (metric.network or "").startswith("encoder:")}
        encoders |= {f"encoder:{self.encoder}"} if self.encoder else set()
        if self.weights.get("encoder") and (len(encoders) > 1 or not (encoders or self.metrics)):
            raise InputError("`encoder_weights`: are of one encoder; name it with `encoder`, and no other in `metrics`")

    def names(self, metric: Metric) -> bool:
        """Tell whether the metric was asked for, or its network, or the file of its weights."""
        kind = (metric.network or "").partition(":")[0]
        return bool(self.metrics or self.weights.get(kind) or (kind == "encoder" and self.encoder))


def metrics_of(group: ResolutionGroup, config: EvaluationConfig) -> list[Metric]:
    """List the metrics asked for, or all that there are for patches or for large images."""
    if config.metrics:
        return list(config.metrics)
    made_with = group.fake[0].provenance.get("encoder")
    encoders = [config.encoder] if config.encoder else dict.fromkeys(filter(None, (STARTER, made_with)))
    fid = "patch-fid" if are_patches(group.fake, config.crops.size_px) else "crop-fid"
    names = [fid, "kid", "precision-recall", "clip-fid"]
    names += [f"{kind}:{encoder}" for encoder in encoders for kind in ("fd", "kid", "precision-recall")]
    names += [f"fd:{VGG}", *(name for name, kind in CATALOGUE.items() if not kind.spaces)]
    return [parse_metric(name) for name in names]


def are_patches(images: Sequence[SetImage], size_px: int) -> bool:
    """Tell whether the images are themselves crops: all are of their size."""
    return all((image.width, image.height) == (size_px, size_px) for image in images)
