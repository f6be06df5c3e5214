"""The Summarizer: where tokens lie, that it is the published one, and that grids of all levels go through together."""

import pytest
import torch
from safetensors.torch import load_file

from largegen.errors import InputError
from largegen.models.conditioners import CONDITIONERS, PatchConditioner, Summarizer
from largegen.models.convert.published import read_published


@pytest.fixture(scope="module")
def summarizer():
    torch.manual_seed(0)
    return Summarizer(8, 12, hidden_dim=16, layers=2, heads=2, mlp_dim=32, levels=4).eval()


@pytest.mark.parametrize("side", [1, 2, 4, 8])
@pytest.mark.parametrize("level", [0, 3, 7])
def test_it_is_the_published_one(shared, side, level):
    folder = shared / "reference" / "zoomldm"
    expected = load_file(folder / "expected.safetensors")
    published = read_published(folder)[0].conditioner
    grid = expected[f"cond.grid_{side}_mag_{level}"].permute(1, 2, 0)  # (D, h, w) => (h, w, D)
    slots, filled, levels = published.arrange(grid[None], level)
    slots[filled] = grid.flatten(0, 1)  # the reference's grids went in as they are: its loader standardises
    context = expected[f"cond.context_{side}_mag_{level}"]
    error = (published(slots, filled, levels) - context).norm() / context.norm()
    assert error < 1e-5


@pytest.mark.parametrize(
    ("rows", "cols", "first", "count"),
    [(1, 1, 32, 1), (2, 2, 30, 4), (4, 4, 24, 16), (8, 8, 0, 64), (3, 5, 25, 15), (16, 16, 0, 64), (2, 20, 24, 16)],
)
def test_tokens_lie_in_the_middle_of_the_slots(summarizer, rows, cols, first, count):
    _, filled, levels = summarizer.arrange(torch.randn(3, rows, cols, 8), 2)
    assert filled.shape == (3, 64) and levels.tolist() == [2, 2, 2]
    assert filled[0].nonzero().flatten().tolist() == list(range(first, first + count))


def test_embeddings_are_standardised_row_by_row(summarizer):
    grid = torch.randn(2, 3, 3, 8) * 5 + 2
    slots, filled, _ = summarizer.arrange(grid, 0)
    tokens = slots[filled].view(2, 9, 8)
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(2, 9), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens.std(-1), torch.ones(2, 9))
    expected = (grid[1, 2, 1] - grid[1, 2, 1].mean()) / grid[1, 2, 1].std()
    torch.testing.assert_close(tokens[1, 7], expected)


def test_a_larger_grid_is_pooled_before_it_is_standardised(summarizer):
    grid = torch.randn(1, 16, 8, 8)
    pooled = grid.view(1, 8, 2, 8, 8).mean(2)
    assert torch.allclose(summarizer.arrange(grid, 3)[0], summarizer.arrange(pooled, 3)[0], atol=1e-6)


def test_samples_of_different_levels_make_one_batch(summarizer):
    samples = [summarizer.arrange(torch.randn(1, side, side, 8), level) for level, side in enumerate((1, 2, 4, 8))]
    together = summarizer(*(torch.cat(parts) for parts in zip(*samples, strict=True)))
    assert together.shape == (4, 65, 12)
    torch.testing.assert_close(together, torch.cat([summarizer(*sample) for sample in samples]), atol=1e-5, rtol=1e-5)


def test_level_and_grid_both_count(summarizer):
    grid = torch.randn(1, 2, 2, 8)
    one, level, turned = (
        summarizer(*summarizer.arrange(*a)) for a in ((grid, 1), (grid, 2), (grid.transpose(1, 2), 1))
    )
    assert (one - level).abs().max() > 1e-3 and (one - turned).abs().max() > 1e-3


def test_without_a_condition_the_tokens_are_zero(summarizer):
    assert torch.equal(summarizer.null(2), torch.zeros(2, 65, 12))


@pytest.mark.parametrize("level", [-1, 4])
def test_a_level_that_it_does_not_know(summarizer, level):
    with pytest.raises(InputError, match=f"level {level}: this model has levels 0 to 3"):
        summarizer.arrange(torch.randn(1, 1, 1, 8), level)


@pytest.mark.parametrize(("side", "level"), [(2, 0), (1, 1)])
def test_the_patch_conditioner_takes_single_embeddings(side, level):
    with pytest.raises(InputError, match="no level but the base"):
        PatchConditioner(8, 16).arrange(torch.randn(1, side, side, 8), level)


def test_it_survives_saving(summarizer, tmp_path):
    summarizer.save_pretrained(tmp_path)
    loaded = CONDITIONERS["Summarizer"].from_pretrained(tmp_path).eval()
    arranged = summarizer.arrange(torch.randn(2, 2, 2, 8), 1)
    assert torch.equal(loaded(*arranged), summarizer(*arranged))
