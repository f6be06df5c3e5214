"""`largegen edit`, from the command line to the files."""

import json

import numpy as np
import pytest
from helpers.commands import assert_one_line
from helpers.priors import random_prior
from helpers.slides import tissue_like
from PIL import Image

from largegen.cli import run
from largegen.embeddings.file import EmbeddingFile
from largegen.models.storage import save_network
from largegen.sampling.blend import new_share
from largegen.sampling.original import Original
from largegen.slides.image_info import read_provenance
from largegen.slides.mask import open_mask
from largegen.slides.slide import open_slide

SIZE = (230, 170)


@pytest.fixture
def image(tmp_path):
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "image.png"
    Image.fromarray(tissue_like(700, 500, 0)[100:270, 100:330]).save(path)
    return path


@pytest.fixture
def model_path(model):
    return model.directory


@pytest.fixture
def edit(model_path, image, tmp_path):
    def call(*more):
        options = ["--model", model_path, "--out", tmp_path / "a.tif", "--device", "cpu", "--precision", "fp32"]
        return run(["edit", *map(str, [image, *options, "--steps", 2, "--source-mag", 20, *more])])

    return call


def pixels(path):
    with open_slide(path) as slide:
        return slide.read(0, 0, slide.width, slide.height)


def test_all_but_the_part_stays_as_it_is(edit, image, tmp_path, capsys):
    assert edit("--mask", "100,60,50,40", "--margin", 8, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    before, after = pixels(image), pixels(tmp_path / "a.tif")
    mask = open_mask("100,60,50,40", SIZE).read(0, 0, *SIZE)
    share = new_share(Original.of_arrays(before, mask), 0, SIZE[1], 8)
    assert np.array_equal(after[share == 0], before[share == 0])
    assert (after[share == 1] != before[share == 1]).any(1).mean() > 0.9
    assert report["made_px"] == 2000 and report["blended_px"] == (share > 0).sum() - 2000
    assert report["autoencoder_psnr"] is not None
    made = open_mask(str(tmp_path / "a_made.geojson"), SIZE)
    assert np.array_equal(made.read(0, 0, *SIZE), share > 0)
    names = [f["properties"]["classification"]["name"] for f in json.loads(made_text(tmp_path))["features"]]
    assert names == ["made by largegen", "blended by largegen"]
    said = read_provenance(tmp_path / "a.tif")
    assert said["edit"]["mask"] == "100,60,50,40" and said["edit"]["made_px"] == 2000
    assert "invented" in said["warning"] and said["mpp"] == pytest.approx(0.5)
    assert edit("--mask", "100,60,50,40", "--margin", 8, "--json") == 0
    assert json.loads(capsys.readouterr().out)["kept"]


def made_text(folder):
    return (folder / "a_made.geojson").read_text()


def test_what_another_slide_shows_a_move_and_a_prior(edit, model, model_path, slide_path, tmp_path, monkeypatch):
    encoder = f"local-dir:{model_path / 'encoder'}"
    embed = ["embed", slide_path, "--out", tmp_path / "in", "--encoder", encoder, "--tile-px", 64, "-q"]
    assert run([*map(str, embed), "--device", "cpu"]) == 0
    [donor] = (tmp_path / "in").glob("*.h5")
    found, common = [], ["--mask", "64,64,64,64", "--out", tmp_path / "a.png", "--overwrite", "-q"]
    np.savez(tmp_path / "in" / "ways.npz", tumour=np.full(16, 2.0))
    info = EmbeddingFile(donor).settings
    about = {"encoder": info.encoder, "encoder_fingerprint": info.encoder_fingerprint}
    prior = random_prior()
    prior.register_to_config(info=prior.config.info | about)
    save_network(prior, tmp_path / "in" / "prior", None)
    for more in (
        ["--from", donor, "--at", "2,3"],
        ["--directions", tmp_path / "in" / "ways.npz", "--move", "tumour=+0.5", "--strength", 0.5],
        ["--prior", tmp_path / "in" / "prior", "--label", "liver", "--prior-steps", 2],
    ):
        assert edit(*common, *more) == 0
        found.append((pixels(tmp_path / "a.png").tobytes(), read_provenance(tmp_path / "a.png")["edit"]))
    assert len({made for made, _ in found}) == 3
    assert found[0][1]["from"] == "slide" and found[0][1]["at"] == [2, 3]
    assert found[1][1]["move"] == ["tumour=+0.5"] and found[1][1]["strength"] == 0.5
    assert found[2][1]["label"] == "liver" and found[2][1]["prior"] == "a-prior"


@pytest.mark.parametrize("strength", ["1", "0.5"])
def test_in_bands_and_a_file_it_is_the_same(edit, in_bands, tmp_path, monkeypatch, strength):
    more = ["--mask", "100,60,50,90", "--margin", 8, "--strength", strength, "-q"]
    found = []
    for bounded in (False, True):
        with monkeypatch.context() as patch:
            if bounded:
                in_bands(patch)
            assert edit(*more, "--overwrite") == 0
        found.append((pixels(tmp_path / "a.tif").tobytes(), made_text(tmp_path)))
    assert found[0] == found[1] and not list(tmp_path.glob(".*"))


def test_a_dry_run_does_nothing(edit, tmp_path, capsys):
    assert edit("--mask", "100,60,50,40", "--dry-run") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["made_px"] == 2000 and report["denoiser_calls"] > 0
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("bounded", [False, True])
def test_killed_it_goes_on_to_the_same_image(edit, in_bands, tmp_path, monkeypatch, bounded):
    if bounded:
        in_bands(monkeypatch)
    more = ["--mask", "100,60,50,40", "--save-every", 0, "-q"]
    assert edit(*more) == 0
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").unlink()

    def dying(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as at_the_end:
        at_the_end.setattr("largegen.images.part.write_image", dying)
        assert edit(*more, "--overwrite") == 130
    assert (tmp_path / ".a.tif.partial").exists() and (tmp_path / ".a.tif.partial.known").exists() == bounded
    assert edit(*more, "--overwrite") == 0
    assert (tmp_path / "a.tif").read_bytes() == whole or np.array_equal(
        pixels(tmp_path / "a.tif"), pixels_of(whole, tmp_path)
    )
    assert not list(tmp_path.glob(".*"))


def pixels_of(content, folder):
    (folder / "in" / "whole.tif").write_bytes(content)
    return pixels(folder / "in" / "whole.tif")


def test_many_images_by_one_command(model_path, image, tmp_path, capfd):
    Image.open(image).transpose(Image.Transpose.ROTATE_180).save(image.with_name("other.png"))
    how = ["--model", model_path, "--out", tmp_path / "out", "--steps", 1, "--source-mag", 20, "--device", "cpu", "-q"]
    assert run(["edit", *map(str, [image.parent, "--mask", "0,0,50,40", *how])]) == 0
    assert {path.name for path in (tmp_path / "out").glob("*.tif")} == {"image_edited.tif", "other_edited.tif"}
    mask = Image.new("L", SIZE)
    mask.paste(255, (0, 0, 64, 64))
    mask.save(tmp_path / "m.png")
    lines = ["slide,mask,out", f"{image},{tmp_path / 'm.png'},a.png", f'{image},"9,9,30,30",b.png']
    (tmp_path / "jobs.csv").write_text("\n".join(lines))
    capfd.readouterr()
    assert run(["edit", *map(str, ["--jobs", tmp_path / "jobs.csv", *how, "--json"])]) == 0
    first, second = json.loads(capfd.readouterr().out)["jobs"]
    assert (first["output"], first["made_px"], second["output"], second["made_px"]) == ("a.png", 4096, "b.png", 900)
    assert run(["edit", *map(str, [image, "--jobs", tmp_path / "jobs.csv", *how])]) == 2
    assert_one_line(capfd.readouterr().err, "the images are its column image")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--mask", "100,60,500,40"], "leaves the image of 230x170 px"),
        (["--mask", "nowhere.png"], "give X,Y,W,H, or a PNG or GeoJSON file"),
        (["--mask", "0,0,9,9", "--out", "a.jpg"], "a JPEG cannot keep pixels as they are"),
        (["--mask", "0,0,9,9", "--move", "a=1"], "--move needs --directions"),
        (["--mask", "0,0,9,9", "--move", "a", "--directions", "no.npz"], "give NAME=AMOUNT"),
        (["--mask", "0,0,9,9", "--move", "a=1", "--directions", "no.npz"], "not readable as .npz"),
        (["--mask", "0,0,9,9", "--at", "1,2"], "--at: only with --from"),
        ([], "give --mask"),
        (["--mask", "0,0,9,9", "--from", "a.h5", "--at", "1"], "give ROW,COLUMN"),
        (["--mask", "0,0,9,9", "--from", "a.h5", "--label", "x"], "give only one of them"),
        (["--mask", "0,0,9,9", "--label", "x"], "has no prior of its own"),
        (["--mask", "0,0,9,9", "--strength", "1.5"], "--strength 1.5: must be more than 0, and 1 at most"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(edit, tmp_path, capfd, options, text):
    assert edit("-q", *options) == 2
    assert_one_line(capfd.readouterr().err, text)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_the_image_is_never_replaced(edit, image, capfd):
    before = image.read_bytes()
    assert edit("--mask", "0,0,99,99", "--out", image, "--overwrite", "-q") == 2
    assert_one_line(capfd.readouterr().err, "is an input of this command")
    assert image.read_bytes() == before
