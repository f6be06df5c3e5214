"""What a grid prior is trained on: which windows, with which conditions."""

import numpy as np
import pytest
import torch
from helpers.priors import random_prior, two_kinds

from largegen.errors import InputError
from largegen.models.grid_prior import NO_LABEL
from largegen.training.grids import GridWindows, TrainingGrid


@pytest.fixture(scope="module")
def prior():
    return random_prior(vector_dim=4)


def grid(rows, cols, tissue=None, **changes):
    tissue = np.ones((rows, cols), bool) if tissue is None else tissue
    return TrainingGrid(f"{rows}x{cols}", two_kinds(rows, cols, 0), tissue, **changes)


def samples(data, count=200):
    return [data[n] for n in range(count)]


def test_a_sample_is_a_function_of_its_number(prior):
    data = [GridWindows(prior, [grid(12, 9), grid(5, 20)], 0.0, 3) for _ in range(2)]
    for n in (0, 7):
        first, second = (one[n] for one in data)
        assert all(first[name].equal(second[name]) for name in first)
    assert not data[0][0]["noise"].equal(data[0][1]["noise"])


def test_windows_are_pieces_of_the_grid(prior):
    data = GridWindows(prior, [grid(12, 9)], 0.0, 0)
    canvas = data.canvases[0]
    pieces = [canvas[:, row : row + 8, col : col + 8] for row in range(5) for col in range(2)]
    seen = {next(n for n, piece in enumerate(pieces) if piece.equal(one["canvas"])) for one in samples(data)}
    assert seen == set(range(10))


def test_windows_are_turned_with_their_masks_where_that_is_asked_for(prior):
    data = GridWindows(prior, [grid(3, 8)], 0.0, 0, turned=True)
    ways = [data.canvases[0].rot90(way % 4, (1, 2)) for way in range(4)]
    ways += [way.flip(2) for way in ways]
    seen = set()
    for one in samples(data, 60):
        rows, cols = (one["mask"].any(side).nonzero().flatten() for side in (1, 0))
        piece = one["canvas"][:, rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        assert one["mask"].sum() == 24 and one["mask"].dtype == torch.bool
        seen.add(next(n for n, way in enumerate(ways) if way.shape == piece.shape and way.equal(piece)))
    assert seen == set(range(8))


def test_a_small_grid_lies_anywhere_and_the_rest_is_masked(prior):
    data = GridWindows(prior, [grid(3, 20)], 0.0, 0)
    tops = set()
    for one in samples(data, 60):
        rows = one["mask"].any(1).nonzero().flatten().tolist()
        assert one["mask"].sum() == 3 * 8 and not one["canvas"][:, ~one["mask"]].any()
        tops.add(rows[0])
    assert tops == set(range(6))


def test_every_window_holds_tissue(prior):
    tissue = np.zeros((30, 30), bool)
    tissue[2, 3] = True
    data = GridWindows(prior, [grid(30, 30, tissue)], 0.0, 0)
    assert all((one["canvas"][-1] == 1).sum() == 1 for one in samples(data))
    with pytest.raises(InputError, match="no window of tissue"):
        GridWindows(prior, [grid(30, 30, np.zeros((30, 30), bool))], 0.0, 0)


def test_what_is_held_out_is_in_no_window_to_train_on(prior):
    data = GridWindows(prior, [grid(64, 64)], 0.3, 0)

    def covered(places):
        found = np.zeros((64, 64), bool)
        for _, row, col in places:
            found[row : row + 8, col : col + 8] = True
        return found

    training, validation = covered(data.training), covered(data.validation)
    assert 0.1 < validation.mean() < 0.5 and not (training & validation).any()


def test_conditions_are_dropped_for_guidance(prior):
    vectors = torch.nn.functional.normalize(torch.ones(1, 4), dim=1)
    data = GridWindows(prior, [grid(8, 8, label=1, vectors=vectors)], 0.0, 0)
    found = [(int(one["label"]), bool(one["vector"].any())) for one in samples(data, 1000)]
    shares = {kind: found.count(kind) / 1000 for kind in set(found)}
    assert shares[NO_LABEL, False] == pytest.approx(0.1, abs=0.03)
    assert all(share == pytest.approx(0.3, abs=0.05) for kind, share in shares.items() if kind != (NO_LABEL, False))
    assert set(shares) == {(NO_LABEL, False), (1, False), (NO_LABEL, True), (1, True)}


def test_one_of_several_vectors_is_drawn_and_changed_a_little(prior):
    vectors = torch.eye(4)[:3]
    data = GridWindows(prior, [grid(8, 8, vectors=vectors)], 0.0, 0)
    drawn = torch.stack([one["vector"] for one in samples(data) if one["vector"].any()])
    nearest = torch.cdist(drawn, vectors).min(1)
    assert set(nearest.indices.tolist()) == {0, 1, 2}
    assert nearest.values.square().mean().sqrt() == pytest.approx(0.2, rel=0.1)


def test_vectors_of_places_go_with_their_windows(prior):
    places, vectors = np.array([(0, 0), (4, 4)]), torch.eye(4)[:2]
    data = GridWindows(prior, [grid(12, 12, vectors=vectors, places=places)], 0.0, 0)
    assert data.training[:, 1:].tolist() == places.tolist()
    for number, place in enumerate(places.tolist()):
        assert data.read(0, *place)["vector"].equal(vectors[number])
