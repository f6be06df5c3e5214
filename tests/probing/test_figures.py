"""AUC, accuracy and their intervals."""

import numpy as np
import pytest

from largegen.probing.figures import figures

metrics = pytest.importorskip("sklearn.metrics", reason="largegen[probe] is not installed")


@pytest.mark.parametrize("classes", [2, 4])
def test_against_scikit_learn(classes):
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=200)
    chances = rng.random((200, classes)).round(1) + 0.05 + 0.4 * np.eye(classes)[labels]
    chances /= chances.sum(1, keepdims=True)
    found = figures(chances, labels, np.arange(200), resamples=50)
    truth = metrics.roc_auc_score(labels, chances[:, 1] if classes == 2 else chances, multi_class="ovr")
    assert found["auc"].value == pytest.approx(truth, abs=1e-12)
    assert found["accuracy"].value == pytest.approx((chances.argmax(1) == labels).mean())
    wanted = metrics.balanced_accuracy_score(labels, chances.argmax(1))
    assert found["balanced_accuracy"].value == pytest.approx(wanted)


def test_intervals_are_those_of_patients():
    """Ten copies of each patient's sample tell no more than one."""
    rng = np.random.default_rng(1)
    labels = rng.integers(2, size=40)
    chance = np.clip(rng.normal(0.5, 0.3, 40) + 0.2 * (2 * labels - 1), 0, 1)
    both = np.stack([1 - chance, chance], 1)
    once = figures(both, labels, np.arange(40))["accuracy"]
    tenfold = figures(both.repeat(10, 0), labels.repeat(10), np.arange(40).repeat(10))["accuracy"]
    strangers = figures(both.repeat(10, 0), labels.repeat(10), np.arange(400))["accuracy"]
    assert tenfold == pytest.approx(once)
    width = once.high - once.low
    assert 2 * np.sqrt(once.value * (1 - once.value) / 40) * 1.96 == pytest.approx(width, rel=0.25)
    assert strangers.high - strangers.low < width / 2
