"""How near samples come to what they were made after, in an encoder's space: the figures of `--eval-every`."""

from dataclasses import dataclass

import numpy as np

from largegen.metrics.distances.frechet import frechet_distance_of_features
from largegen.metrics.per_image.similarity import unit
from largegen.models.encoder import Encoder

ENCODER_BATCH = 32  # images through the encoder at once


@dataclass(frozen=True)
class SampleMetrics:
    """Holds samples against the held-out regions whose embeddings they were made from."""

    encoder: Encoder
    every: int  # steps between evaluations
    samples: int  # regions per level, at most

    def figures(self, real: np.ndarray, sampled: np.ndarray) -> dict[str, float]:
        """Compute the Fréchet distance of the embeddings, made of length 1, and the mean cosine of the pairs.

        The distance of so few samples is biased upwards, but alike at every step: good for comparing the steps of a
        run, and runs of as many samples.

        Args:
            real: (N, H, W, 3) uint8, N at least 2.
            sampled: Likewise, pairwise.
        """
        a, b = self._embed(real), self._embed(sampled)
        distance = frechet_distance_of_features(a, b)
        return {f"fd:{self.encoder.spec.name}": distance, "similarity": float((a * b).sum(1).mean())}

    def _embed(self, images: np.ndarray) -> np.ndarray:
        parts = [self.encoder.encode(images[i : i + ENCODER_BATCH]) for i in range(0, len(images), ENCODER_BATCH)]
        return unit(np.concatenate(parts))
