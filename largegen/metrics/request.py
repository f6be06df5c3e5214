"""What an evaluation is asked for: which metrics, in the spaces of which networks, of which crops."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from largegen.errors import InputError
from largegen.metrics.sets.crops import CropSettings
from largegen.metrics.sets.images import ResolutionGroup, SetImage

if TYPE_CHECKING:
    import torch


STARTER = "starter"  # the bundled encoder
VGG = "vgg16"  # the network of perceptual distances, which fd and its like take in an encoder's place
INCEPTION_METRICS = ("patch-fid", "crop-fid", "kid", "precision-recall")
ENCODER_METRICS = ("fd", "kid", "precision-recall")  # that take `:ENCODER`
IMAGE_METRICS = ("embedding-similarity", "seam", "guide-psnr", "lpips")
METRIC_NAMES = (*INCEPTION_METRICS, "clip-fid", "fd:ENCODER", *IMAGE_METRICS)


@dataclass(frozen=True)
class Metric:
    """One of `--metrics`."""

    name: str  # as it is given: crop-fid, fd:uni_v1
    kind: str  # crop-fid, fd
    network: str | None  # whose features it compares, as networks.load_network names it; None for single images


def parse_metric(text: str) -> Metric:
    """Parse `crop-fid`, `kid`, `kid:starter`, `fd:uni_v1`, `fd:vgg16`... Raises InputError for what is no metric."""
    kind, _, encoder = text.partition(":")
    if encoder == VGG and kind in ENCODER_METRICS:
        return Metric(text, kind, VGG)
    if encoder and kind in ENCODER_METRICS:
        return Metric(text, kind, f"encoder:{encoder}")
    if text == "clip-fid":
        return Metric(text, kind, "clip")
    if text in INCEPTION_METRICS:
        return Metric(text, kind, "inception")
    if text in IMAGE_METRICS:
        return Metric(text, kind, None)
    names, more = ", ".join(METRIC_NAMES), " and ".join(ENCODER_METRICS[1:])
    raise InputError(f"`metrics` {text}: unknown; use {names}; {more} take :ENCODER as well")


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
    names = [fid, *INCEPTION_METRICS[2:], "clip-fid"]
    names += [f"{kind}:{encoder}" for encoder in encoders for kind in ENCODER_METRICS]
    return [parse_metric(name) for name in (*names, f"fd:{VGG}", *IMAGE_METRICS)]


def are_patches(images: Sequence[SetImage], size_px: int) -> bool:
    """Tell whether the images are themselves crops: all are of their size."""
    return all((image.width, image.height) == (size_px, size_px) for image in images)
