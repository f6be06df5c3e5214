"""A command that is killed just before any file operation, run again, leaves what it would have left unkilled."""

import json
import shutil

import pytest
import torch
from helpers import ldm_form
from helpers.checkpoints import save_checkpoint
from helpers.embeddings import random, save
from helpers.kill_points import LINE, tried
from helpers.models import WIDTH, save_encoder, save_model
from helpers.priors import save_prior
from helpers.slides import save_slide, tissue_like
from PIL import Image

from largegen.cli import run

CPU = ["--device", "cpu"]
MADE = ["--steps", 2, *CPU, "--precision", "fp32", "--batch-size", 8]


def save_scene(path):
    """A GeoTIFF of 130x130 px, 5 m each."""
    import rasterio

    bands = tissue_like(130, 130, 0).transpose(2, 0, 1)
    about = {"crs": "EPSG:26914", "transform": rasterio.Affine(5, 0, 485900, 0, -5, 5209245)}
    with rasterio.open(path, "w", driver="GTiff", width=130, height=130, count=3, dtype="uint8", **about) as scene:
        scene.write(bands)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A slide, models, embeddings, pictures and a published autoencoder, all tiny."""
    folder = tmp_path_factory.mktemp("inputs")
    save_slide(folder / "slide.tif", tissue_like(300, 260, 0), 0.5)
    encoder = save_encoder(folder / "encoder")
    save_model(folder / "model", encoder)
    save_model(folder / "zoom", encoder, levels=2)
    save_scene(folder / "scene.tif")
    for name in ("slide", "scene"):
        embed = ["embed", folder / f"{name}.tif", "--out", folder / name, "--encoder", f"local-dir:{encoder}"]
        assert run([str(word) for word in [*embed, "--tile-px", 64, "--no-tissue-filter", *CPU]]) == 0
    save_prior(folder / "prior", embedding_dim=WIDTH)
    form = {
        **{"embed_dim": 3, "n_embed": 8},
        "ddconfig": {
            **{"double_z": False, "z_channels": 3, "resolution": 32, "in_channels": 3, "out_ch": 3, "ch": 32},
            **{"ch_mult": [1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0},
        },
    }
    weights = {name: torch.zeros(shape) for name, shape in ldm_form.autoencoder(**form)}
    save_checkpoint(folder / "ldm", weights, {"model": {"params": {"first_stage_config": {"params": form}}}})
    for name, seed in (("real", 1), ("fake", 2)):
        (folder / name).mkdir()
        for number in range(4):
            Image.fromarray(tissue_like(80, 80, seed + 10 * number)).save(folder / name / f"{number}.png")
    save(folder / "others.npy", random(2, 2, 16))
    (folder / "labels.csv").write_text("file,label,split\nreal/0.png,a,train\nreal/1.png,b,train\nfake/0.png,a,test")
    (folder / "empty").mkdir()
    return folder


def commands(inputs, out):
    """The commands that write files, with all that they can write beside each other."""
    encoder, slide = f"local-dir:{inputs / 'encoder'}", inputs / "slide.tif"
    reference = ["--embeddings", inputs / "slide" / "slide.h5", *MADE]
    of_scene = ["--embeddings", inputs / "scene" / "scene.h5", "--model", inputs / "model", "--size", 64, *MADE]
    crops = ["--crops", 4, "--crop-px", 64, "--replicates", 0, "--no-tissue-filter", *CPU, "--workers", 0]
    sets = ["--real", inputs / "real", "--fake", inputs / "fake", "--metrics", f"fd:{encoder}", *crops]
    of_slides = ["--source-mpp", 0.5, "--mag", 20, "--steps", 2, "--batch-size", 2, "--workers", 0, *CPU]
    loop = ["--validate-every", 2, "--checkpoint-every", 1, "--log-every", 1, "--mixed-precision", "no"]
    loop += ["--validation", 0, "--warmup-steps", 1, "--resume", "latest"]
    tiny = [*of_slides, *loop]
    return {
        "deepzoom": ["generate", *reference, "--size", 64, "--out", out / "x.dzi", "--save-every", 0],
        "png": ["generate", "--ref", slide, "--no-tissue-filter", "--model", inputs / "model", *MADE, "--size", 64,
                "--cache", out / "cache", "--out", out / "x.png", "--save-every", 0],
        "geotiff": ["generate", *of_scene, "--out", out / "x.tif"],
        "world-file": ["generate", *of_scene, "--out", out / "x.png"],
        "ome-tiff": ["generate", *reference, "--model", inputs / "model", "--size", 64, "--out", out / "x.ome.tif"],
        "imagine": ["imagine", "--prior", inputs / "prior", "--size", 128, "--steps", 2, "--out", out / "x.h5", *CPU],
        "zoom": ["zoom", *reference, "--model", inputs / "zoom", "--size", 128, "--out", out / "x.tif", "--levels"],
        "sample": ["sample", *reference[:-2], "--model", inputs / "model", "--count", 2, "--out", out / "x.jpg"],
        "augment": ["augment", inputs / "labels.csv", "--out", out, "--model", inputs / "model", "--per-image", 1,
                    "--source-mpp", 0.5, *MADE],
        "embed": ["embed", slide, "--out", out, "--encoder", encoder, "--tile-px", 64, *CPU, "--no-tissue-filter",
                  "--preview"],
        "import": ["import", inputs / "others.npy", "--out", out, "--encoder", "inhouse", "--embedding-dim", 16,
                   "--tile-px", 64, "--mpp", 0.5],
        "convert": ["convert", inputs / "ldm", "--out", out / "model"],
        "eval": ["eval", *sets, "--save-stats", out / "stats.npz", "--report", out / "report.html"],
        "train": ["train", inputs / "slide", "--out", out / "run", "--preset", "tiny", "--turns", 1, "--steps", 2,
                  "--batch-size", 2, "--workers", 0, *loop, *CPU],
        "train-vae": ["train-vae", slide, "--out", out / "run", "--preset", "tiny", *tiny],
        "train-encoder": ["train-encoder", slide, "--out", out / "run", "--architecture", "test_resnet",
                          "--tile-px", 64, "--input-px", 64, "--width", 8, *tiny],
        "train-prior": ["train-prior", inputs / "slide", "--out", out / "run", "--steps", 2, "--batch-size", 2,
                        "--workers", 0, "--window", 3, "--width", 64, "--layers", 1, "--components", 2, *loop, *CPU],
        "training": [LINE, out / "run"],
    }  # fmt: skip


ALL = (
    "deepzoom",
    "png",
    "geotiff",
    "world-file",
    "ome-tiff",
    "zoom",
    "sample",
    "imagine",
    "augment",
    "embed",
    "import",
    "convert",
)
TRAINING = ("train", "train-vae", "train-encoder", "train-prior")  # one loop: that of "training"
STARTER = {"deepzoom"}


def check(inputs, tmp_path, name, **how):
    out = tmp_path / "out"
    arguments = commands(inputs, out)[name]
    if name in STARTER:
        arguments += ["--model", inputs / "model"]
    found = tried(arguments, inputs / "empty", out, **how)
    assert found["count"] > 2
    assert not found["wrong"], json.dumps(found, indent=1)


@pytest.mark.parametrize(("name", "step"), [("deepzoom", 4), ("convert", 3), ("eval", 4), ("embed", 3)])
def test_killed_before_it_changes_what_is_there(inputs, tmp_path, name, step):
    """Before some of the times that files are renamed or deleted or folders made; the slow test takes all."""
    check(inputs, tmp_path, name, every=False, step=step)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ALL, "eval", "training"])
def test_killed_before_each_file_operation(inputs, tmp_path, name):
    check(inputs, tmp_path, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINING)
def test_trainings_killed_before_some_file_operations(inputs, tmp_path, name):
    check(inputs, tmp_path, name, step=9)


def test_another_job_s_output_is_refused(inputs, tmp_path, capsys):
    """Before the work, where another command made it; and where the same command would make another image."""
    model = shutil.copytree(inputs / "model", tmp_path / "model")
    command = commands(inputs, tmp_path)["deepzoom"] + ["--model", model]
    command = [str(word) for word in command]
    assert run(command) == 0
    assert run([*command, "--seed", "1"]) == 1
    assert "exists already" in capsys.readouterr().err
    save_model(tmp_path / "other", inputs / "encoder", seed=1)
    shutil.rmtree(model)
    (tmp_path / "other").rename(model)
    assert run(command) == 1
    assert "exists already" in capsys.readouterr().err
