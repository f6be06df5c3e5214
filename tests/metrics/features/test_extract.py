"""Statistics of samples through a network: exact, of the samples that can be read, in memory that does not grow."""

import tracemalloc

import numpy as np
import pytest
import torch
from helpers.slides import save_slide

from largegen.errors import InputError, SlideError
from largegen.metrics.distances.frechet import gaussian_of
from largegen.metrics.features import extract as module
from largegen.metrics.features.extract import extract
from largegen.metrics.features.networks import FeatureNetwork
from largegen.metrics.request import CropSettings
from largegen.metrics.sets.crops import Crops, Samples
from largegen.metrics.sets.images import SetImage
from largegen.runtime.distributed import process_group

WIDTH = 8


def project(batch):
    """(B, H, W, 3) uint8 => (B, 8) float32."""
    flat = batch.reshape(len(batch), -1).astype(np.float32) / 255
    return flat @ np.random.default_rng(0).normal(size=(flat.shape[1], WIDTH)).astype(np.float32)


NETWORK = FeatureNetwork(
    **{"name": "stand-in", "title": "stand-in", "dim": WIDTH, "key": {"network": "stand-in"}, "standard": True},
    **{"licence": "CC0-1.0", "device": torch.device("cpu"), "prepare": lambda image: image, "features": project},
)


class MadeUp(Samples):
    """Samples (16, 16, 3) uint8 that are made when they are asked for; every `broken`-th cannot be read."""

    def __init__(self, count, broken=None):
        image = SetImage("image", 1.0, 16, 16, lossy=False, tissue=False)
        super().__init__([image], [] if broken else None)
        self.count, self.broken = count, broken

    def __len__(self):
        return self.count

    def image_of(self, index):
        return 0

    def one(self, index):
        if self.broken and index % self.broken == 0:
            raise SlideError("image: damaged")
        return np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def statistics_of(samples, batch_size=32, workers=2, network=NETWORK):
    processes = process_group(torch.device("cpu"))
    options = {"processes": processes, "batch_size": batch_size, "workers": workers}
    return extract(network, samples, {"level": "pixels"}, {"paths": ("here",)}, **options)


def test_statistics_are_those_of_all_features(monkeypatch):
    monkeypatch.setattr(module, "MAX_KEPT_FEATURES", 50)
    samples = MadeUp(333)
    found, kept = statistics_of(samples)
    features = project(np.stack([samples.one(index) for index in range(333)]))
    expected = gaussian_of(features)
    assert found.gaussian.count == 333 and len(kept) == 50 and (np.diff(kept) > 0).all()
    np.testing.assert_allclose(found.gaussian.mean, expected.mean, rtol=1e-5)
    np.testing.assert_allclose(found.gaussian.covariance, expected.covariance, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.features, features[kept], rtol=1e-4, atol=1e-4)
    assert found.key == {"network": "stand-in", "level": "pixels"}
    assert found.source == {"paths": ("here",), "count": 333}


def test_exactly_what_cannot_be_read_is_left_out():
    samples = MadeUp(100, broken=10)
    found, kept = statistics_of(samples, batch_size=4)
    assert kept.tolist() == [index for index in range(100) if index % 10]
    assert found.gaussian.count == 90 and samples.failed == [("image", "image: damaged")]


@pytest.mark.parametrize("reader", ["vips", "openslide"])
def test_a_damaged_slide_gives_the_same_crops_whatever_the_batches_and_threads(tmp_path, monkeypatch, reader):
    if reader == "openslide":
        monkeypatch.setattr("largegen.slides.readers.VIPS_VENDORS", ())
    pixels = np.random.default_rng(0).integers(1, 256, (1500, 1500, 3)).astype(np.uint8)
    path = save_slide(tmp_path / "slide.tif", pixels, compression="deflate")
    content = bytearray(path.read_bytes())
    for place in range(300_000, len(content) // 2, 1_200_000):
        content[place : place + 300] = bytes(300)
    path.write_bytes(content)
    image = SetImage(path, 1.0, 1500, 1500, lossy=False, tissue=False)
    assert image.open().reader == reader
    everything = []
    for batch_size, workers in ((8, 1), (8, 4), (5, 4)):
        failed = []
        crops = Crops([image], CropSettings(200, 128), failed)
        found = list(crops.batches(batch_size, workers))
        assert all(batch.min() > 0 for _, batch in found)  # libvips paints what it cannot read black
        assert len(failed) == 1 and "damaged" in failed[0][1]
        everything.append(np.concatenate([indices for indices, _ in found]).tolist())
    assert everything[0] == everything[1] == everything[2] and 20 < len(everything[0]) < 200


def test_one_sample_is_one_line():
    with pytest.raises(InputError, match="here: 1 crop; statistics need at least two") as error:
        statistics_of(MadeUp(1))
    assert "\n" not in str(error.value)


def test_memory_does_not_grow_with_the_samples(monkeypatch):
    monkeypatch.setattr(module, "MAX_KEPT_FEATURES", 500)
    statistics_of(MadeUp(500))  # what is imported and kept once
    peaks = []
    for count in (2_000, 20_000):
        tracemalloc.start()
        statistics_of(MadeUp(count), batch_size=16)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # The order in which the features to keep are drawn takes 8 bytes a sample; a sample itself has 768.
    assert peaks[1] - peaks[0] < 20 * 18_000
