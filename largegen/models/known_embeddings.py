"""Which embeddings a model was trained on, so that it can tell when a reference is unlike all of them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from largegen.models.storage import SavedTensors

QUANTILE = 0.999  # of the training embeddings' distances, beyond which an embedding counts as unlike them
FEWEST = 10  # training embeddings per dimension: of fewer, the quantile says little about others
RIDGE = 0.1  # of the mean variance: directions in which the training embeddings hardly vary count less
UNLIKE_SHARE = 0.5  # of a reference's tiles beyond the quantile, from which on the reference is unlike


@dataclass(frozen=True)
class KnownEmbeddings(SavedTensors):
    """Mean and covariance of the training embeddings' directions, as a distance (Mahalanobis) and a limit of it."""

    mean: Tensor  # (D,) float32, of unit embeddings
    whitening: Tensor  # (D, D) float32: the distance is the length after it
    limit: Tensor  # () float32: the quantile of the training embeddings' distances

    def distances(self, embeddings: Tensor) -> Tensor:
        """Embeddings (N, D) of any length -> distances (N,) float32 from the mean of the training embeddings."""
        centred = F.normalize(embeddings.float().cpu(), dim=-1) - self.mean
        return (centred @ self.whitening).norm(dim=-1)

    def unlike(self, embeddings: Tensor) -> int:
        """How many of the embeddings (N, D) lie beyond the limit."""
        return int((self.distances(embeddings) > self.limit).sum())


def know_embeddings(embeddings: Tensor) -> KnownEmbeddings:
    """Compute the statistics of training embeddings (N, D), N > D."""
    unit = F.normalize(embeddings.float().cpu(), dim=-1).double()
    covariance = torch.cov(unit.T)
    covariance += RIDGE * covariance.trace() / len(covariance) * torch.eye(len(covariance), dtype=torch.float64)
    whitening = torch.linalg.cholesky(torch.linalg.inv(covariance)).float()
    known = KnownEmbeddings(unit.mean(0).float(), whitening, torch.tensor(torch.inf))
    limit = known.distances(embeddings).quantile(QUANTILE)
    return KnownEmbeddings(known.mean, known.whitening, limit)
