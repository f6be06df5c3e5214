"""A part made anew: what is outside stays bit by bit, what is inside follows its embeddings."""

import numpy as np
import pytest
import torch
from helpers.denoisers import run
from helpers.models import WIDTH
from helpers.priors import random_prior
from helpers.slides import tissue_like

import largegen
from largegen.errors import InputError
from largegen.sampling.blend import new_share
from largegen.sampling.content import from_donor, imagined, moved, surroundings
from largegen.sampling.edit import box_around, edit_sampling
from largegen.sampling.edit_latents import edit_latents, stay_until
from largegen.sampling.encode import encode_image
from largegen.sampling.keep import Keep
from largegen.sampling.original import Original
from largegen.sampling.rows import in_memory
from largegen.sampling.settings import Imagining, Sampling

QUICK = {"steps": 2, "guidance": 2.0}


@pytest.fixture(scope="module")
def image():
    return tissue_like(700, 500, 0)[100:270, 100:300].copy()  # 170 x 200 px: 3 x 4 tiles of 64 px


@pytest.fixture(scope="module")
def mask():
    found = np.zeros((170, 200), bool)
    found[70:110, 80:150] = True
    return found


@pytest.mark.parametrize("name", ["ddim", "dpm++", "unipc", "lcm"])
@pytest.mark.parametrize("windows", ["overlap", "shift"])
def test_kept_latents_end_as_they_are_and_the_rest_sees_them(name, windows):
    known = torch.randn(1, 3, 40, 28, generator=torch.Generator().manual_seed(5))
    stays = torch.zeros(40, 28, dtype=torch.bool)
    stays[:, :12] = True
    free = run(name=name, windows=windows)
    found = run(name=name, windows=windows, correct=Keep(known, 99 * stays))
    torch.testing.assert_close(found[..., :12], known[..., :12], atol=2e-3, rtol=1e-3)
    assert not torch.allclose(found[..., 12:16], free[..., 12:16], atol=1e-2)


def test_outside_the_margin_no_bit_changes(model, image, mask):
    new = largegen.edit(model, image, mask, margin=8, **QUICK)
    share = new_share(Original.of_arrays(image, mask), 0, len(mask), 8)
    assert new.shape == image.shape and np.array_equal(new[share == 0], image[share == 0])
    assert (new[mask] != image[mask]).any(1).mean() > 0.9
    assert 0 < (share > 0).sum() - mask.sum() < 2000 and share[mask].min() == 1
    again = largegen.edit(model, image, mask, margin=8, **QUICK)
    assert np.array_equal(new, again)
    other = largegen.edit(model, image, mask, margin=8, seed=1, **QUICK)
    assert (other[mask] != new[mask]).any()


@pytest.mark.parametrize(("margin", "count"), [(0, 6 * 9), (8, 8 * 11)])  # rows 64 to 112, columns 80 to 152 px
def test_latents_outside_the_mask_and_its_margin_are_untouched(model, image, mask, margin, count):
    sampling, original = edit_sampling(Sampling(**QUICK), model, 1.0), Original.of_arrays(image, mask)
    features = torch.randn(3, 4, WIDTH, generator=torch.Generator().manual_seed(0))
    edited = edit_latents(model, original, features, sampling, margin=margin)
    assert edited.latents.shape[-2:] == (22, 25) and edited.changed.sum() == count
    known, found = encode_image(model, original, (176, 200)), in_memory(edited.latents)
    old = torch.from_numpy(~edited.changed)
    assert torch.equal(found[..., old], known[..., old])


def test_the_margin_joins_what_is_new_in_turn():
    new = np.arange(12)[None] < 4
    assert stay_until(new, 4, 6).tolist() == [[0, 0, 0, 0, 1, 2, 3, 4, 6, 6, 6, 6]]
    assert stay_until(new, 1, 6).tolist() == [[0] * 4 + [1] + [6] * 7]
    assert stay_until(new, 0, 6).tolist() == [[0] * 4 + [6] * 8]


def test_what_stays_until_a_late_step_joins_what_is_new():
    known = torch.randn(1, 3, 40, 28, generator=torch.Generator().manual_seed(5))
    stays = torch.arange(28).expand(40, 28) < 12
    hard, joined = (run(correct=Keep(known, stays * torch.where(torch.arange(28) < 8, 99, until))) for until in (99, 3))
    torch.testing.assert_close(hard[..., :12], known[..., :12], atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(joined[..., :8], known[..., :8], atol=2e-3, rtol=1e-3)
    apart = (joined[..., 8:12] - known[..., 8:12]).abs().mean()
    assert 0.01 < apart < (run()[..., 8:12] - known[..., 8:12]).abs().mean()


def test_what_is_far_from_the_mask_is_neither_encoded_nor_decoded(model, image):
    mask = np.zeros((170, 200), bool)
    mask[:10, :10] = True
    original, features = Original.of_arrays(image, mask), torch.zeros(3, 4, WIDTH)
    edited = edit_latents(model, original, features, edit_sampling(Sampling(steps=1), model, 1.0), margin=8)
    assert edited.shown[:7, :7].all() and edited.shown.sum() == 49  # 2 latents, 1 of margin, half a window
    found = in_memory(edited.latents)  # a window more, and what shares a window with that
    assert (found[..., 20:] == 0).all() and (found[..., :15, :15] != 0).all()


def test_less_strength_stays_nearer_to_what_is_there(model, image, mask):
    sampling, features = edit_sampling(Sampling(steps=10, windows="overlap"), model, 1.0), torch.zeros(3, 4, WIDTH)
    original = Original.of_arrays(image, mask)
    known = encode_image(model, original, (176, 200))
    far = [
        (in_memory(edit_latents(model, original, features, sampling, strength).latents) - known).square().sum().item()
        for strength in (0.1, 0.5, 1.0)
    ]
    assert 0 < far[0] < far[1] < far[2]


@pytest.mark.parametrize("steps", [0, 10])  # 0: the model's own number
def test_where_not_all_steps_are_taken_windows_overlap(model, steps):
    assert edit_sampling(Sampling(steps=steps), model, 0.7).windows == "overlap"
    assert edit_sampling(Sampling(steps=steps), model, 1.0).windows == "shift"


def test_the_share_of_the_new_is_the_same_in_bands(image, mask):
    original = Original.of_arrays(image, mask)
    bands = [new_share(original, top, bottom, 8) for top, bottom in original.bands(30)]
    assert np.array_equal(np.concatenate(bands), new_share(original, 0, len(mask), 8))


def test_a_part_is_seen_with_what_is_around_on_a_grid_of_tiles_that_begins_with_it(model):
    assert box_around((700, 30, 900, 100), (2000, 1500), model, 32) == (696 - 256, 0, 900 - 440 + 256, 356)
    assert box_around((70, 64, 90, 80), (100, 90), model, 32) == (0, 0, 100, 90)
    assert box_around((1000, 1000, 1001, 1001), (9999, 9999), model, 400)[2] == 448 + 448 + 1


def test_a_tile_that_is_hardly_touched_shows_what_it_did(image):
    mask = np.zeros((170, 200), bool)
    mask[60:128, 64:140] = True  # 4 rows of the first tiles, 12 columns of the last
    original = Original.of_arrays(image, mask)
    assert np.argwhere(original.changed(64)).tolist() == [[1, 1]]
    assert original.touched(64).sum() == 4
    mask[:], mask[60:70, 60:70] = False, True
    assert np.argwhere(original.changed(64)).tolist() == [[1, 1]]


def test_what_the_surroundings_tell():
    features, touched = torch.zeros(1, 3, 2), np.array([[False, True, False]])
    features[0, 0], features[0, 2] = torch.tensor([2.0, 0]), torch.tensor([0, 4.0])
    found = surroundings(features, touched)
    assert found[0, 1].tolist() == [1, 2] and torch.equal(found[0, ::2], features[0, ::2])
    with pytest.raises(InputError, match="touches every tile"):
        surroundings(features, np.ones((1, 3), bool))


def test_a_donor_is_laid_at_the_first_touched_tile():
    donor = np.arange(12, dtype=np.float32).reshape(3, 4, 1)
    touched = np.zeros((3, 3), bool)
    touched[1:, 1:] = True
    found = from_donor(donor, 1, 2)(torch.full((3, 3, 1), -1.0), touched)
    assert found[1:, 1:, 0].tolist() == [[6, 7], [10, 11]] and (found[0] == -1).all()
    with pytest.raises(InputError, match="`at` 2,0: the mask needs the donor's tiles to 3,1; it has 3x4"):
        from_donor(donor, 2, 0)(torch.zeros(3, 3, 1), touched)


def test_touched_tiles_move_along_directions():
    touched = np.array([[True, False]])
    found = moved([(np.array([1.0, 0]), 0.5), (np.array([0, 2.0]), -1)])(torch.ones(1, 2, 2), touched)
    assert found[0].tolist() == [[1.5, -1], [1, 1]]
    with pytest.raises(InputError, match="a direction of shape"):
        moved([(np.ones(3), 1.0)])(torch.ones(1, 2, 2), touched)


def test_a_prior_goes_on_with_what_is_around():
    prior = random_prior()
    features = torch.randn(3, 10, WIDTH, generator=torch.Generator().manual_seed(0))
    touched = np.zeros((3, 10), bool)
    touched[:, 4:] = True
    quick = Imagining(prior_steps=4)
    found = imagined(prior, quick, 0)(features, touched)
    assert torch.equal(found[:, :4], features[:, :4]) and found[:, 4:].isfinite().all()
    other = features.clone()
    other[:, :4] *= -1
    assert not torch.allclose(imagined(prior, quick, 0)(other, touched)[:, 4:], found[:, 4:])


def test_what_is_around_is_not_drowned_in_noise_and_undoes_no_label(monkeypatch):
    """Rounds begin with the mean of what is known; under a label there are none."""
    prior, features = random_prior(), torch.zeros(3, 10, WIDTH)
    features[..., 0] = 3
    touched = np.zeros((3, 10), bool)
    touched[:, 6:] = True
    new = torch.from_numpy(touched)
    found = {
        label: imagined(prior, Imagining(label=label, prior_steps=4), 0)(features, touched)[new]
        for label in (None, "liver")
    }
    assert all(torch.isfinite(one).all() for one in found.values())
    far = {label: (one - features[new]).square().mean().item() for label, one in found.items()}
    assert far[None] < far["liver"]
    monkeypatch.setattr("largegen.sampling.imagine.ROUNDS", 1)
    for label, one in found.items():
        again = imagined(prior, Imagining(label=label, prior_steps=4), 0)(features, touched)[new]
        assert torch.equal(again, one) == (label is not None)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"strength": 0}, "`strength` 0: must be more than 0"),
        ({"margin": -1}, "`margin` -1: must be 0 or more"),
        ({"mask": np.zeros((170, 200), bool)}, "not all False"),
        ({"mask": np.ones((3, 3), bool)}, "must be bool"),
        ({"image": np.zeros((170, 200))}, "must be uint8"),
    ],
)
def test_what_cannot_be(model, image, mask, changes, text):
    with pytest.raises(InputError, match=text):
        largegen.edit(**{"model": model, "image": image, "mask": mask} | changes)
