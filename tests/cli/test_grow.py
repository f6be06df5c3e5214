"""`largegen grow`, in memory and from the command line to the files."""

import json

import numpy as np
import pytest
from helpers.commands import assert_one_line
from helpers.priors import random_prior
from helpers.slides import tissue_like
from PIL import Image

import largegen
from largegen.cli import run
from largegen.errors import InputError
from largegen.images.grow_file import grow_file
from largegen.images.part import Edit
from largegen.models.storage import save_network
from largegen.sampling.content import surroundings
from largegen.sampling.grow import place_in
from largegen.sampling.settings import Sampling
from largegen.slides.image_info import read_provenance
from largegen.slides.mask import open_mask
from largegen.slides.slide import open_slide

OLD, NEW, PLACE = (70, 64), (136, 128), (64, 0)


@pytest.fixture(scope="module")
def pixels():
    return tissue_like(700, 500, 0)[200:264, 300:370].copy()


@pytest.fixture
def image(pixels, tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "image.png")
    return tmp_path / "in" / "image.png"


@pytest.fixture
def grow(model, image, tmp_path):
    def call(*more):
        options = ["--model", model.directory, "--out", tmp_path / "a.png", "--device", "cpu", "--precision", "fp32"]
        size = [] if "--size" in more else ["--size", "136x128", "--place", "64,0"]
        return run(["grow", *map(str, [image, *options, *size, "--steps", 2, "--source-mag", 20, *more])])

    return call


def read(path):
    with open_slide(path) as slide:
        return slide.read(0, 0, slide.width, slide.height)


def inner(image, margin):
    """What must stay: the old image without its margin, but for the upper edge, where nothing is new."""
    return image[: OLD[1] - margin, margin : OLD[0] - 2 * margin + margin]


def test_what_was_there_stays_and_what_is_around_is_made(grow, pixels, tmp_path, capsys):
    assert grow("--margin", 8, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    whole = read(tmp_path / "a.png")
    assert whole.shape == (128, 136, 3) and report["place"] == [64, 0]
    assert np.array_equal(inner(whole[:64, 64:134], 8), inner(pixels, 8))
    assert not np.array_equal(whole[:64, 64:134], pixels)  # blended
    mirrored = np.pad(pixels, [(0, 64), (64, 2), (0, 0)], "symmetric")
    assert (whole[64:] != mirrored[64:]).any(-1).mean() > 0.9
    made = open_mask(str(tmp_path / "a_made.geojson"), NEW).read(0, 0, *NEW)
    assert made[64:].all() and made[:, :64].all() and not made[:56, 72:126].any() and made[56:64, 72:126].all()
    said = read_provenance(tmp_path / "a.png")
    assert said["edit"]["grown_from"] == [70, 64] and said["edit"]["place"] == [64, 0]
    assert said["reference_xy"] == [-64, 0] and "invented" in said["warning"]
    assert grow("--margin", 8, "--json") == 0 and json.loads(capsys.readouterr().out)["kept"]


def test_in_bands_and_a_file_it_is_the_same(grow, in_bands, tmp_path, monkeypatch):
    assert grow("--margin", 8, "-q") == 0
    whole, made = read(tmp_path / "a.png"), (tmp_path / "a_made.geojson").read_text()
    in_bands(monkeypatch)
    assert grow("--margin", 8, "-q", "--overwrite") == 0
    assert np.array_equal(read(tmp_path / "a.png"), whole) and (tmp_path / "a_made.geojson").read_text() == made


def test_a_scene_keeps_its_place(model, scene_path, tmp_path):
    with open_slide(scene_path) as scene:
        size = scene.width + 8, scene.height  # 500 px are no whole number of latents
        with pytest.raises(InputError, match="multiples of 8"):
            place_in(model, (scene.width, scene.height), size)
    small = tmp_path / "small.tif"
    import rasterio

    with rasterio.open(scene_path) as scene:
        window = rasterio.windows.Window(300, 200, 72, 64)
        profile = scene.profile | {"width": 72, "height": 64, "transform": scene.window_transform(window)}
        with rasterio.open(small, "w", **profile) as part:
            part.write(scene.read(window=window))
    with open_slide(small) as scene:
        grow_file(
            model, scene, (136, 64), (64, 0), Edit(surroundings, {}, margin=4), tmp_path / "a.tif", Sampling(steps=1)
        )
        before = scene.read(0, 0, 72, 64)
    with open_slide(tmp_path / "a.tif") as grown:
        x, y = 485900 + 300 * 5 - 64 * 5, 5209245 - 200 * 5
        assert grown.gsd_m == 5 and grown.georeference.transform == (5, 0, x, 0, -5, y)
        assert np.array_equal(grown.read(68, 0, 68, 64), before[:, 4:])


def test_a_prior_tells_what_is_around(model, pixels, grow, tmp_path):
    prior = random_prior()
    about = {"encoder": model.info.encoder, "encoder_fingerprint": model.info.encoder_fingerprint}
    prior.register_to_config(info=prior.config.info | about)
    save_network(prior, tmp_path / "in" / "prior", None)
    found, common = [], ["--guidance", 8, "--overwrite", "-q"]
    for asked in ([], ["--prior", tmp_path / "in" / "prior", "--label", "liver", "--prior-steps", 2]):
        assert grow(*common, *asked) == 0
        found.append((read(tmp_path / "a.png"), read_provenance(tmp_path / "a.png")["edit"]))
    assert (found[0][0] != found[1][0]).any() and np.array_equal(found[0][0][:32, 96:102], found[1][0][:32, 96:102])
    assert "label" not in found[0][1] and (found[1][1]["label"], found[1][1]["prior"]) == ("liver", "a-prior")


def test_in_memory_the_middle_is_the_images(model, pixels):
    assert place_in(model, (70, 64), (256, 200)) == (64, 64)
    whole = largegen.grow(model, pixels, (136, 128), place=(0, 64), margin=0, steps=1)
    assert whole.shape == (128, 136, 3) and np.array_equal(whole[64:, :70], pixels)


def test_a_dry_run_does_nothing(grow, tmp_path, capsys):
    assert grow("--dry-run") == 0
    assert json.loads(capsys.readouterr().out)["denoiser_calls"] > 0
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_many_images_by_one_command(model, image, tmp_path, capfd):
    Image.open(image).transpose(Image.Transpose.ROTATE_180).save(image.with_name("other.png"))
    how = ["--model", model.directory, "--out", tmp_path / "out", "--steps", 1, "--source-mag", 20, "--device", "cpu"]
    assert run(["grow", *map(str, [image.parent, "--size", "136x64", *how, "-q"])]) == 0
    made = sorted(path.name for path in (tmp_path / "out").glob("*.tif"))
    assert made == ["image_grown_136x64.tif", "other_grown_136x64.tif"]
    lines = ["image,size,place,out", f'{image},72x64,"0,0",a.png', f'{image},72x64,"2,0",b.png']
    (tmp_path / "jobs.csv").write_text("\n".join(lines))
    capfd.readouterr()
    assert run(["grow", *map(str, ["--jobs", tmp_path / "jobs.csv", *how, "-q", "--json"])]) == 0
    first, second = json.loads(capfd.readouterr().out)["jobs"]
    assert (first["output"], first["place"], second["output"], second["place"]) == ("a.png", [0, 0], "b.png", [2, 0])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--size", "full"], "give N or WxH"),
        (["--size", "64"], "does not fit into it"),
        (["--size", "136x127"], "multiples of 8"),
        (["--size", "136x128", "--place", "100,0"], "does not fit into it"),
        (["--size", "136x128", "--place", "1"], "--place 1: give X,Y"),
        (["--label", "x"], "has no prior of its own"),
        (["--out", "a.jpg"], "a JPEG cannot keep pixels"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(grow, tmp_path, capfd, options, text):
    assert grow("-q", *options) == 2
    assert_one_line(capfd.readouterr().err, text)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
