"""A classifier on the embeddings of a slide's tiles: attention over them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn


class AttentionPooling(nn.Module):
    """Gated attention over the tiles of a slide (ABMIL; Ilse et al. 2018, eq. 9).

    Args:
        dim: D of an embedding.
        classes: Number of classes.
        hidden: Width of the projection and of the attention.
        dropout: Of the projected embeddings.
    """

    def __init__(self, dim: int, classes: int, hidden: int = 128, dropout: float = 0.25) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.what, self.gate = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.score, self.classify = nn.Linear(hidden, 1), nn.Linear(hidden, classes)

    def forward(self, tiles: Tensor) -> Tensor:
        """Tell a slide's class from its tiles: (N, D) -> logits (classes,)."""
        tiles = self.project(tiles)
        weights = self.score(self.what(tiles).tanh() * self.gate(tiles).sigmoid()).softmax(0)
        logits: Tensor = self.classify((weights * tiles).sum(0))
        return logits


def attention(
    train: Sequence[np.ndarray],
    labels: np.ndarray,
    test: Sequence[np.ndarray],
    classes: int,
    *,
    epochs: int = 40,
    rate: float = 3e-4,
    seed: int = 0,
) -> np.ndarray:
    """Train ABMIL, a slide a step, with AdamW and a cosine schedule; classes count the same, however rare.

    Args:
        train: The slides' tiles, (N, D) each.
        labels: (slides,) int.
        test: The tiles of the slides to be classified.
        classes: Number of classes.
        epochs: Rounds over all slides.
        rate: Learning rate at the start.
        seed: Of the weights, the order and the dropout.

    Returns:
        (slides of test, classes) probabilities.
    """
    rows = np.concatenate(train)
    mean, spread = (torch.from_numpy(v).float() for v in (rows.mean(0), rows.std(0) + 1e-6))
    weights = 1 / torch.from_numpy(np.bincount(labels, minlength=classes)).float().clamp(min=1)
    truths = torch.from_numpy(labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AttentionPooling(rows.shape[1], classes)
        optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(train))
        loss_of = nn.CrossEntropyLoss(
            weights / weights.mean(), reduction="sum"
        )  # the mean over one slide is unweighted
        for _ in range(epochs):
            for number in torch.randperm(len(train)).tolist():
                logits = network((torch.from_numpy(train[number]) - mean) / spread)
                loss_of(logits[None], truths[number, None]).backward()
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
        network.eval()
        with torch.inference_mode():
            return np.stack(
                [network((torch.from_numpy(bag) - mean) / spread).softmax(0).numpy().astype(float) for bag in test]
            )
