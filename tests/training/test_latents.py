"""Latents are computed once, survive a kill, and belong to one slide."""

import numpy as np
import pytest
import torch
from helpers.disk import small_disk
from helpers.models import save_encoder

from largegen.embeddings.embed import embed_slide
from largegen.embeddings.file import EmbeddingFile
from largegen.embeddings.options import EmbedOptions
from largegen.embeddings.source import find_slide
from largegen.errors import EmbeddingFileError, OutputError
from largegen.models.autoencoder import Autoencoder
from largegen.models.encoder import load_encoder
from largegen.models.pixels import to_network
from largegen.slides.slide import open_slide
from largegen.training.config import AUTOENCODER_PRESETS
from largegen.training.latents import cache_latents, latents_path
from largegen.training.regions import find_regions
from largegen.training.sampler import orient
from largegen.training.tasks.autoencoder import build_autoencoder


@pytest.fixture(scope="module")
def file(make_slide, tmp_path_factory) -> EmbeddingFile:
    """Embeddings of the 64 px tiles of a small slide."""
    folder = tmp_path_factory.mktemp("embeddings")
    encoder = load_encoder(f"local-dir:{save_encoder(folder / 'encoder')}", device="cpu")
    with open_slide(make_slide(600, 500, name="a.tif")) as slide:
        return EmbeddingFile(embed_slide(slide, encoder, folder, EmbedOptions(64), downsample=1.0, progress=False))


@pytest.fixture(scope="module")
def regions(file):
    return find_regions(file, 0)


@pytest.fixture(scope="module")
def autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(build_autoencoder(AUTOENCODER_PRESETS["tiny"]).eval())


class Stop(Exception):
    pass


def stop_after(batches, autoencoder, monkeypatch):
    encode, left = autoencoder.encode, iter(range(batches))

    def stopping(images):
        if next(left, None) is None:
            raise Stop
        return encode(images)

    monkeypatch.setattr(autoencoder, "encode", stopping)


def test_the_cache_holds_every_tile_every_way(file, regions, autoencoder, tmp_path):
    path = tmp_path / "new" / "latents.npy"
    with find_slide(file) as slide:
        cache_latents(regions, slide, autoencoder, path, orientations=4)
        latents = np.load(path)
        assert latents.shape == (file.count, 4, 4, 8, 8) and latents.dtype == np.float16
        last = slide.read(*file.coords()[-1].tolist(), 64, 64)
    turned = np.stack([orient(last, k) for k in (0, 2, 4, 6)])
    assert latents[-1] == pytest.approx(autoencoder.encode(to_network(turned)).numpy(), abs=1e-2)
    assert [p.name for p in path.parent.iterdir()] == ["latents.npy"]


@pytest.mark.parametrize("ragged", [0, 7, 1000])
def test_an_interrupted_cache_is_continued(file, regions, autoencoder, tmp_path, monkeypatch, ragged):
    with find_slide(file) as slide:
        cache_latents(regions, slide, autoencoder, tmp_path / "whole.npy", orientations=2, batch_size=8)
        with monkeypatch.context() as patch, pytest.raises(Stop):
            stop_after(3, autoencoder, patch)
            cache_latents(regions, slide, autoencoder, tmp_path / "cut.npy", orientations=2, batch_size=8)
        partial = tmp_path / "cut.npy.partial"
        assert not (tmp_path / "cut.npy").exists()
        rows = 12
        with partial.open("r+b") as cut:
            cut.truncate(partial.stat().st_size - ragged)
            rows -= -(-ragged // (2 * 2 * 4 * 8 * 8))
        calls = -(-(file.count - rows) // 4)
        with monkeypatch.context() as patch:
            stop_after(calls, autoencoder, patch)
            cache_latents(regions, slide, autoencoder, tmp_path / "cut.npy", orientations=2, batch_size=8)
    whole, cut = np.load(tmp_path / "whole.npy"), np.load(tmp_path / "cut.npy")
    assert cut == pytest.approx(whole, abs=2e-3)


def test_a_complete_cache_is_kept(file, regions, autoencoder, tmp_path, monkeypatch):
    path = tmp_path / "a.npy"
    with find_slide(file) as slide:
        cache_latents(regions, slide, autoencoder, path, orientations=1)
        before = path.stat()
        stop_after(0, autoencoder, monkeypatch)
        cache_latents(regions, slide, autoencoder, path, orientations=1)
    assert path.stat() == before


def test_a_full_disk_is_one_line_and_no_cache(file, regions, autoencoder, tmp_path):
    with small_disk(tmp_path / "disk", 40) as disk, find_slide(file) as slide:
        with pytest.raises(OutputError, match="no space left"):
            cache_latents(regions, slide, autoencoder, disk / "a.npy", orientations=8)
        assert not (disk / "a.npy").exists() and not (disk / "a.npy.lock").exists()


def test_the_cache_is_named_by_all_it_depends_on(file, regions, autoencoder, tmp_path):
    torch.manual_seed(1)
    other = Autoencoder(build_autoencoder(AUTOENCODER_PRESETS["tiny"]))
    found = {
        latents_path(regions, autoencoder.fingerprint, tmp_path, 1, torch.float32),
        latents_path(regions, autoencoder.fingerprint, tmp_path, 2, torch.float32),
        latents_path(regions, autoencoder.fingerprint, tmp_path, 1, torch.bfloat16),
        latents_path(regions, other.fingerprint, tmp_path, 1, torch.float32),
        latents_path(find_regions(file, 1), autoencoder.fingerprint, tmp_path, 1, torch.float32),
    }
    assert len(found) == 5
    assert all(path.name.startswith("a.level-") and path.suffix == ".npy" for path in found)
    assert latents_path(regions, autoencoder.fingerprint, tmp_path, 1, torch.float32) in found


def test_a_slide_that_moved_is_found(file, tmp_path):
    with find_slide(file) as slide:
        path = slide.path
    (tmp_path / path.name).write_bytes(path.read_bytes())
    for where in (tmp_path, tmp_path / path.name):
        with find_slide(file, where) as slide:
            assert slide.path.parent == tmp_path
    with pytest.raises(EmbeddingFileError, match="is not there; say where with `slides` DIR"):
        find_slide(file, tmp_path / "elsewhere")


@pytest.mark.parametrize(("width", "seed"), [(640, 0), (600, 1)])
def test_another_slide_of_that_name_is_refused(file, make_slide, width, seed):
    other = make_slide(width, 500, name="a.tif", seed=seed)
    with pytest.raises(EmbeddingFileError, match=r"a\.h5: made from a slide of 600x500 px .* embed it again"):
        find_slide(file, other.parent)
