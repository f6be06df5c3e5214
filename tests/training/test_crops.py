"""Training samples depend on their number alone, and stay off the pixels that are held out."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from largegen.errors import InputError
from largegen.models.pixels import to_images, to_network
from largegen.slides.slide import open_slide
from largegen.training.crops import CropDataset, SlidePixels
from largegen.training.held_out import HeldOut
from largegen.training.sampler import StepSampler, orient, sample_rng


@pytest.fixture(scope="module")
def slide(make_slide):
    with open_slide(make_slide(1600, 1300, name="crops.tif")) as slide:
        yield slide


def test_random_numbers_are_those_of_seed_and_sample():
    def draw(seed, sample):
        return sample_rng(seed, sample).integers(0, 2**60, 4).tolist()

    assert draw(3, 5) == draw(3, 5)
    different = [draw(0, 0), draw(0, 1), draw(1, 0), draw(-1, 0), draw(0, 2**63)]
    assert len({tuple(numbers) for numbers in different}) == 5


def test_the_eight_turns_are_all_different():
    image = np.arange(12).reshape(2, 2, 3)
    assert len({orient(image, k).tobytes() for k in range(8)}) == 8
    assert (orient(image, 0) == image).all()
    assert (orient(image, 4) == image[:, ::-1]).all()


def test_images_to_network_and_back():
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), np.uint8)
    tensor = to_network(images)
    assert tensor.shape == (2, 3, 5, 4) and tensor.dtype == torch.float32
    assert to_network(np.uint8([[[0, 255, 0]]])).flatten().tolist() == [-1, 1, -1]
    assert (to_images(tensor) == images).all()
    assert to_images(torch.tensor([-3.0, 0.0, 3.0]).view(3, 1, 1)).tolist() == [[[0, 128, 255]]]


def test_a_sample_is_the_same_whoever_draws_it_and_when(slide):
    def crops(order, workers=0):
        dataset = CropDataset([(slide, 1.0)], 96, views=2, shift_px=40, seed=7)
        loader = DataLoader(dataset, 1, sampler=order, num_workers=workers)
        return {number: batch["image"][0] for number, batch in zip(order, loader, strict=True)}

    first, again, workers = crops([0, 1, 2, 3]), crops([3, 1]), crops([2, 0, 3, 1], workers=2)
    assert first[0].shape == (2, 3, 96, 96)
    assert all(torch.equal(first[n], again[n]) for n in again)
    assert all(torch.equal(first[n], workers[n]) for n in workers)
    assert not torch.equal(first[0], first[1])
    other = CropDataset([(slide, 1.0)], 96, views=2, shift_px=40, seed=8)
    assert not torch.equal(first[0], other[0]["image"])


@pytest.mark.parametrize("downsample", [1.0, 1.2])
def test_crops_never_touch_a_held_out_block(slide, monkeypatch, downsample):
    dataset = CropDataset([(slide, downsample)], 64, views=2, shift_px=100, held_out=0.3, seed=0)
    taken = []
    monkeypatch.setattr(
        SlidePixels,
        "crop",
        lambda self, x, y, size_px: taken.append((x, y)) or np.zeros((size_px, size_px, 3), np.uint8),
    )
    for n in range(300):
        dataset[n]
    width, height = dataset.pixels[0].width, dataset.pixels[0].height
    held = np.zeros((height, width), bool)
    for row, col in np.ndindex(-(-height // 256), -(-width // 256)):
        held[row * 256 :, col * 256 :][:256, :256] = dataset.held_out.holds(slide.name, row, col)
    assert 0.05 < held.mean() < 0.6
    assert len(taken) == 600 and len(set(taken)) > 400
    for x, y in taken:
        assert 0 <= x <= width - 64 and 0 <= y <= height - 64
        assert not held[y : y + 64, x : x + 64].any()
    taken.clear()
    validation = dataset.validation()
    assert len(validation) == len(taken) > 0
    assert all(held[y : y + 64, x : x + 64].all() for x, y in taken)


def test_coarser_crops_show_more_and_stay_off_the_held_out_blocks(slide, monkeypatch):
    dataset = CropDataset([(slide, 1.0)], 64, levels=3, held_out=0.05, seed=0)
    taken = []
    crop = SlidePixels.crop
    monkeypatch.setattr(
        SlidePixels, "crop", lambda self, *at: taken.append((int(self.downsample), *at)) or crop(self, *at)
    )
    images = [to_images(dataset[n]["image"])[0] for n in range(300)]
    counts = np.bincount([level for level, *_ in taken], minlength=5)
    assert counts[1] > 1.5 * counts[2] > 1.5 * 1.2 * counts[4] > 0 and counts.sum() == len(taken)
    for level, x, y, size_px in taken:
        assert not dataset.held_out.touches(slide.name, level * x, level * y, level * size_px)
    number, (level, x, y, _) = next((n, at) for n, at in enumerate(taken) if at[0] == 4)
    whole = slide.read(4 * x, 4 * y, 256, 256, 1.0).reshape(64, 4, 64, 4, 3).mean((1, 3))
    assert min(np.abs(whole - orient(images[number], k)).mean() for k in range(8)) < 3


def test_slides_are_drawn_equally_often(slide, make_slide, monkeypatch):
    with open_slide(make_slide(400, 300, name="small.tif")) as small:
        dataset = CropDataset([(slide, 1.0), (small, 1.0)], 64, held_out=0.0)
        assert len(dataset.places[0]) > 5 * len(dataset.places[1])
        taken = []
        monkeypatch.setattr(
            SlidePixels, "crop", lambda self, *at: taken.append(self.slide.name) or np.zeros((64, 64, 3))
        )
        for n in range(400):
            dataset[n]
    assert taken.count("small") == pytest.approx(200, abs=50)


def test_views_of_a_sample_are_near_each_other(slide, monkeypatch):
    dataset = CropDataset([(slide, 1.0)], 64, views=2, shift_px=40, held_out=0.0)
    taken = []
    monkeypatch.setattr(
        SlidePixels,
        "crop",
        lambda self, x, y, size_px: taken.append((x, y)) or np.zeros((size_px, size_px, 3), np.uint8),
    )
    for n in range(200):
        dataset[n]
    distance = np.abs(np.subtract(taken[::2], taken[1::2])).max(1)
    assert distance.max() <= 40 and np.median(distance) > 10


def test_the_held_out_part_is_as_large_as_asked():
    blocks = HeldOut(0.2, seed=1)
    held = [blocks.holds("slide", row, col) for row in range(100) for col in range(100)]
    assert sum(held) / 10_000 == pytest.approx(0.2, abs=0.02)
    assert held == [HeldOut(0.2, seed=1).holds("slide", row, col) for row in range(100) for col in range(100)]
    assert held != [HeldOut(0.2, seed=2).holds("slide", row, col) for row in range(100) for col in range(100)]
    assert not any(HeldOut(0.0).holds("slide", row, 0) for row in range(1000))


def test_touching_and_covering_a_held_out_block(monkeypatch):
    monkeypatch.setattr(HeldOut, "holds", lambda self, name, row, col: (row, col) in ((1, 1), (1, 2)))
    blocks = HeldOut(block_px=10)
    assert blocks.touches("s", 9, 9, 2) and not blocks.touches("s", 8, 8, 2)
    assert blocks.touches("s", 29, 10, 5) and not blocks.touches("s", 30, 10, 5)
    assert blocks.covers("s", 15, 10, 10) and not blocks.covers("s", 21, 10, 10)
    assert HeldOut.for_tiles(64, 0.1, 3) == HeldOut(0.1, 256, 3)
    assert HeldOut.for_tiles(512, 0.1, 3).block_px == 512


def test_a_slide_without_tissue_gives_no_crops(make_slide, tmp_path):
    from PIL import Image

    Image.new("RGB", (300, 300), (243, 243, 243)).save(tmp_path / "glass.png")
    with open_slide(tmp_path / "glass.png") as glass, pytest.raises(InputError, match="no training crop"):
        CropDataset([(glass, 1.0)], 64)


def test_a_slide_smaller_than_a_block_has_no_validation_crops(make_slide):
    with open_slide(make_slide(240, 200)) as small:
        dataset = CropDataset([(small, 1.0)], 64, held_out=0.0)
        assert len(dataset.validation()) == 0
        assert dataset[0]["image"].shape == (1, 3, 64, 64)


def test_pixels_are_the_same_from_memory_and_from_the_file(slide, monkeypatch):
    in_memory = SlidePixels(slide, 1.0)
    monkeypatch.setattr("largegen.training.crops.IN_MEMORY_BYTES", 0)
    from_file = SlidePixels(slide, 1.0)
    assert in_memory._pixels is not None and from_file._pixels is None
    assert (in_memory.crop(333, 444, 50) == from_file.crop(333, 444, 50)).all()


@pytest.mark.parametrize("world", [1, 2, 4])
def test_processes_share_each_step_between_them(world):
    shares = [list(StepSampler(8, 2, 5, rank, world)) for rank in range(world)]
    assert all(len(share) == 24 // world == len(StepSampler(8, 2, 5, 0, world)) for share in shares)
    per_step = 8 // world
    for step in range(3):
        seen = [n for share in shares for n in share[step * per_step : (step + 1) * per_step]]
        assert seen == list(range((2 + step) * 8, (3 + step) * 8))
