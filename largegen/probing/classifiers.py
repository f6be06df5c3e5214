"""Classifiers on embeddings: linear, and nearest neighbours."""

from dataclasses import dataclass

import numpy as np

NEIGHBOURS = 20  # at most
LINEAR_STEPS = 1000
PENALTY = 100.0  # of the linear classifier's penalty, over the number of features and classes


@dataclass(frozen=True)
class Linear:
    """A linear classifier."""

    weights: np.ndarray  # (classes, D)
    biases: np.ndarray  # (classes,)

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Tell the classes of features (N, D): (N, classes)."""
        logits = features @ self.weights.T + self.biases
        odds = np.exp(logits - logits.max(1, keepdims=True))
        found: np.ndarray = odds / odds.sum(1, keepdims=True)
        return found


def fit_linear(train: np.ndarray, labels: np.ndarray, classes: int) -> Linear:
    """Fit logistic regression on standardised features: L2 penalty 100 / (D * classes), as for UNI (Chen et al. 2024).

    Args:
        train: (N, D) features.
        labels: (N,) int, all of 0 .. classes - 1 among them.
        classes: Number of classes.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train)
    fitted = LogisticRegression(C=train.shape[1] * classes / PENALTY, max_iter=LINEAR_STEPS)
    fitted.fit(scaler.transform(train), labels)
    weights, biases = fitted.coef_ / scaler.scale_, fitted.intercept_ - (fitted.coef_ / scaler.scale_) @ scaler.mean_
    if classes == 2:  # one logit, of the second class
        weights, biases = np.concatenate([0 * weights, weights]), np.concatenate([0 * biases, biases])
    return Linear(weights, biases)


def linear(train: np.ndarray, labels: np.ndarray, test: np.ndarray, classes: int) -> np.ndarray:
    """Tell the classes of `test` (M, D) by what `fit_linear` learns of the rest: (M, classes) probabilities."""
    return fit_linear(train, labels, classes).probabilities(test)


def nearest(train: np.ndarray, labels: np.ndarray, test: np.ndarray, classes: int) -> np.ndarray:
    """Let the nearest neighbours vote, by cosine similarity of centred features.

    Up to 20, and no more than twice the rarest class has less one, which else could never win. Arguments and result as
    of `linear`.
    """
    from sklearn.neighbors import KNeighborsClassifier

    count = min(NEIGHBOURS, 2 * int(np.bincount(labels, minlength=classes).min()) - 1, len(train))
    centre = train.mean(0)
    voting = KNeighborsClassifier(count, metric="cosine").fit(train - centre, labels)
    return np.asarray(voting.predict_proba(test - centre))
