"""The command line: what it prints, where, and with which exit code."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from largegen.cli import run
from largegen.cli.commands import COMMANDS, STAGES
from largegen.embeddings.file import EmbeddingFile
from largegen.version import __version__

TRAIN = ["train-vae", "train-encoder"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    """A tiny encoder directory, as --encoder takes it."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=16)
    safetensors.torch.save_file(net.state_dict(), folder / "model.safetensors")
    config = {
        **{"format": "largegen-encoder", "architecture": "test_resnet", "width": 16, "input_px": 64},
        **{"mean": [0.5] * 3, "std": [0.5] * 3, "licence": "CC-BY-4.0", "timm_kwargs": {}},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return f"local-dir:{folder}"


@pytest.fixture
def embed(encoder, tmp_path, capfd):
    """Run `largegen embed` into tmp_path/out; gives exit code, stdout, stderr (of C libraries too)."""

    def call(*arguments) -> tuple[int, str, str]:
        capfd.readouterr()
        common = ["--encoder", encoder, "--out", str(tmp_path / "out"), "--device", "cpu"]
        code = run(["embed", *map(str, arguments), *common])
        return code, *capfd.readouterr()

    return call


def assert_one_line(text: str, *words: str) -> None:
    assert text.startswith("error: ") and text.count("\n") == 1, text
    assert all(word in text for word in words), text


def test_help_is_quick_and_loads_no_library():
    program = (
        "import sys; from largegen.cli import run; run(['--help']); "
        "heavy = {'torch', 'timm', 'diffusers', 'h5py', 'pyvips', 'openslide', 'numpy', 'largegen.cli.embed'}; "
        "sys.exit(f'{heavy} loaded' if (heavy := heavy & set(sys.modules)) else 0)"
    )
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
    assert "embed" in done.stdout and min(seconds) < 0.3


def test_help_lists_commands_by_stage_each_in_a_sentence(capfd):
    assert run(["--help"]) == 0
    text = capfd.readouterr().out
    places = [text.index(f"\n{stage}:\n") for stage in STAGES]
    assert places == sorted(places) and "..." not in text[places[0] :]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_says_its_purpose_and_ends_with_an_example(name, capfd):
    assert run([name, "--help"]) == 0
    about = STAGES[COMMANDS[name]][name]
    text = capfd.readouterr().out
    assert f"\n  {about.purpose}\n" in text and text.endswith(f"\n  Example:\n    {about.example}\n")


@pytest.mark.parametrize(
    ("words", "found"),
    [("largegen gene", ["generate"]), ("largegen generate --guid", ["--guidance"]), ("largegen train-", TRAIN)],
)
def test_bash_completes_commands_and_options(words, found):
    variables = {"_LARGEGEN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    command = [sys.executable, "-m", "largegen"]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)
    assert done.stdout.split() == found, done.stderr


def test_completion_can_be_installed(capfd):
    variables = {"_LARGEGEN_COMPLETE": "source_bash"}
    command = [sys.executable, "-m", "largegen"]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)
    assert "complete -o default -F _largegen_completion largegen" in done.stdout, done.stderr
    assert run(["--help"]) == 0 and "--install-completion" in capfd.readouterr().out


def test_version_and_no_command(capfd):
    assert run(["--version"]) == 0 and capfd.readouterr().out == f"largegen {__version__}\n"
    assert run([]) == 0 and "Prepare:" in capfd.readouterr().out


def test_python_m_largegen_gives_the_exit_code():
    done = subprocess.run([sys.executable, "-m", "largegen", "info", "absent"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert_one_line(done.stderr, "absent")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["nonsense"], "nonsense"),
        (["embed"], "SLIDE"),
        (["embed", "a.svs"], "--out"),
        (["embed", "a.svs", "--out", "o", "--batch-size", "many"], "--batch-size"),
        (["embed", "a.svs", "--out", "o", "--batch-size", "0"], "--batch-size"),
        (["embed", "a.svs", "--out", "o", "--nonsense"], "--nonsense"),
        (["embed", "a.svs", "--out", "o", "--mag", "20", "--mpp", "0.5"], "--mpp"),
        (["embed", "a.svs", "--out", "o"], "a.svs"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(arguments, word, capfd):
    assert run(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert_one_line(err, word)


def test_embed_says_what_it_wrote(embed, slide_path, tmp_path):
    code, out, _ = embed(slide_path)
    file = EmbeddingFile(tmp_path / "out" / "slide.h5")
    assert code == 0 and out == f"{file.path}: {file.count} tiles x 16\n"
    assert file.coords_attrs["target_magnification"] == 20 and file.settings.downsample == 1.0
    assert file.settings.encoder_licence == "CC-BY-4.0"


def test_embed_json_is_one_object_on_stdout(embed, slide_path, tmp_path):
    code, out, _ = embed(slide_path, "--json", "--preview", "--mpp", "1.0", "--overlap", 64)
    report = json.loads(out)
    assert code == 0 and report["licence"] == "CC-BY-4.0"
    (result,) = report["slides"]
    file = EmbeddingFile(result["file"])
    assert result["tiles"] == file.count and file.settings.overlap_px == 64
    assert file.settings.downsample == 2.0 and "target_magnification" not in file.coords_attrs
    assert Path(result["preview"]).read_bytes().startswith(b"\x89PNG")


def test_dry_run_writes_nothing_and_estimates(embed, slide_path, tmp_path):
    code, out, _ = embed(slide_path, "-n", "--tile-px", 128)
    report = json.loads(out)
    assert code == 0 and not (tmp_path / "out").exists()
    estimate = report["slides"][0]
    embed(slide_path, "--tile-px", 128)
    assert estimate["tiles"] == EmbeddingFile(tmp_path / "out" / "slide.h5").count
    assert estimate["disk_mb"] * 1e6 == pytest.approx(estimate["tiles"] * (16 * 4 + 16), abs=1000)
    assert estimate["seconds"] >= 0 and estimate["memory_mb"] > 0
    assert report["settings"]["tile_px"] == 128


def test_no_tissue_filter_takes_every_tile(embed, slide_path, tmp_path):
    embed(slide_path, "--no-tissue-filter")
    assert read_tissue(tmp_path).all()
    embed(slide_path, "--overwrite", "--tissue-threshold", "0.3")
    assert not read_tissue(tmp_path).all()


def read_tissue(tmp_path) -> np.ndarray:
    return EmbeddingFile(tmp_path / "out" / "slide.h5").grid().tissue


def test_a_scene_is_embedded_at_its_own_resolution(embed, scene_path, tmp_path):
    assert embed(scene_path)[0] == 0
    assert EmbeddingFile(tmp_path / "out" / "scene.h5").settings.downsample == 1.0
    assert embed(scene_path, "--overwrite", "--gsd", "10", "--tile-px", 64)[0] == 0
    assert EmbeddingFile(tmp_path / "out" / "scene.h5").settings.downsample == 2.0


def test_a_slide_without_resolution_names_the_flags(embed, make_slide):
    path = make_slide(700, 600, mpp=None, name="unknown.svs")
    code, out, err = embed(path)
    assert code == 2 and out == ""
    assert_one_line(err, "unknown.svs", "mpp", "--source-mpp", "--source-mag")
    assert embed(path, "--source-mag", "20")[0] == 0


def test_done_is_kept_and_other_settings_are_refused(embed, slide_path, tmp_path):
    embed(slide_path)
    before = (tmp_path / "out" / "slide.h5").stat().st_mtime_ns
    code, _, err = embed(slide_path)
    assert code == 0 and "kept" in err
    code, _, err = embed(slide_path, "--mag", "10")
    assert code == 1
    assert_one_line(err, "slide.h5", "downsample", "--overwrite")
    assert (tmp_path / "out" / "slide.h5").stat().st_mtime_ns == before
    assert embed(slide_path, "--mag", "10", "--overwrite")[0] == 0


def truncated(path: Path, make_slide) -> None:
    content = make_slide(1300, 1000, name="whole.svs").read_bytes()
    path.write_bytes(content[: len(content) // 2])


def glass(path: Path, make_slide) -> None:
    from helpers.slides import save_slide

    save_slide(path, np.full((600, 700, 3), 243, np.uint8), 0.5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (truncated, ["bad.svs"]),
        (lambda path, _: path.write_text("not a slide"), ["bad.svs"]),
        (lambda path, _: path.write_bytes(b""), ["bad.svs", "empty"]),
        (lambda path, _: path.mkdir(), ["bad.svs", "no slides"]),
        (lambda path, _: None, ["bad.svs", "no such"]),
        (glass, ["bad.svs", "tissue", "--tissue-threshold", "--no-tissue-filter"]),
    ],
    ids=["truncated", "text", "zero bytes", "empty directory", "missing", "no tissue"],
)
def test_bad_input_is_one_line_and_leaves_nothing(embed, make_slide, tmp_path, make, words):
    make(tmp_path / "bad.svs", make_slide)
    code, out, err = embed(tmp_path / "bad.svs")
    assert code == 2 and out == ""
    assert_one_line(err, *words)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_keep_going_does_the_others_and_says_3(embed, slide_path, tmp_path):
    (tmp_path / "broken.svs").write_text("not a slide")
    code, _, err = embed(tmp_path / "broken.svs", slide_path)
    assert code == 2 and not (tmp_path / "out").exists()
    assert_one_line(err, "broken.svs")
    code, out, err = embed(tmp_path / "broken.svs", slide_path, "--keep-going", "--json")
    assert code == 3
    assert_one_line(err, "broken.svs")
    first, second = json.loads(out)["slides"]
    assert "broken.svs" in first["error"] and Path(second["file"]).is_file()


def test_two_slides_of_one_name_are_refused(embed, make_slide):
    code, _, err = embed(make_slide(600, 600, name="same.tif"), make_slide(600, 600, name="same.svs"))
    assert code == 2
    assert_one_line(err, "same.tif", "same.svs")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--encoder", "no_such_network"], ["no_such_network", "uni_v1"]),
        (["--encoder-weights", "absent.safetensors"], ["absent.safetensors"]),
        (["--device", "quantum"], ["--device quantum"]),
        (["--precision", "fp8"], ["--precision fp8"]),
        (["--tile-px", "4096"], ["smaller than one tile"]),
        (["--overlap", "256"], ["overlap"]),
    ],
)
def test_bad_options_are_one_line(encoder, slide_path, tmp_path, capfd, option, words):
    arguments = ["embed", str(slide_path), "--out", str(tmp_path / "o"), "--encoder", encoder, *option]
    assert run(arguments) == 2
    assert_one_line(capfd.readouterr().err, *words)


def test_code_in_the_encoder_weights_is_not_run(encoder, slide_path, tmp_path, capfd):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "evil"), "w")

    torch.save({"state_dict": Evil()}, tmp_path / "w.pth")
    arguments = ["embed", str(slide_path), "--out", str(tmp_path / "o"), "--encoder", encoder]
    assert run([*arguments, "--encoder-weights", str(tmp_path / "w.pth")]) == 2
    assert_one_line(capfd.readouterr().err, "w.pth: holds no weights")
    assert not (tmp_path / "evil").exists()


def test_a_hub_that_cannot_be_had_is_one_line(slide_path, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert run(["embed", str(slide_path), "--out", str(tmp_path / "o"), "--encoder", "uni_v1"]) == 1
    assert_one_line(capfd.readouterr().err, "https://huggingface.co/MahmoodLab/UNI", "--encoder-weights")


def test_config_gives_values_and_flags_win(embed, slide_path, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text("tile-px = 128\noverlap = 32\n[embed]\nno_tissue_filter = true\n[encoders]\njson = true\n")
    assert embed(slide_path, "--config", config, "--overlap", 0)[0] == 0
    settings = EmbeddingFile(tmp_path / "out" / "slide.h5").settings
    assert (settings.tile_px, settings.overlap_px, settings.tissue_filter) == (128, 0, "none")


def test_config_gives_required_options_too(encoder, slide_path, tmp_path, capfd):
    values = {"encoder": encoder, "out": str(tmp_path / "out"), "preview": True, "mpp": 1}
    (tmp_path / "run.toml").write_text("\n".join(f"{k} = {json.dumps(v)}" for k, v in values.items()))
    assert run(["embed", str(slide_path), "--config", str(tmp_path / "run.toml")]) == 0
    assert (tmp_path / "out" / "slide.h5").is_file() and (tmp_path / "out" / "slide.png").is_file()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tile-size = 128", ["no option 'tile-size'"]),
        ("[embedd]\ntile-px = 128", ["[embedd] is not a command"]),
        ("[embed]\nx = 1", ["no option 'x'"]),
        ("slides = ['a.svs']", ["no option 'slides'"]),
        ("tile-px = ", ["not a TOML file"]),
        ("tile-px = 'wide'", ["--tile-px"]),
        (None, ["No such file"]),
    ],
)
def test_a_bad_config_is_one_line(embed, slide_path, tmp_path, text, words):
    if text is not None:
        (tmp_path / "run.toml").write_text(text)
    code, _, err = embed(slide_path, "--config", tmp_path / "run.toml")
    assert code == 2
    assert_one_line(err, *words)


def test_quiet_says_nothing(embed, slide_path):
    embed(slide_path)
    _, _, err = embed(slide_path, "-q")
    assert err == ""


def test_an_interrupt_is_130_and_says_how_to_go_on(embed, slide_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("largegen.embeddings.embed.embed_slide", interrupt)
    code, _, err = embed(slide_path)
    assert code == 130 and "resumes" in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("two\nlines"), ["unexpected RuntimeError: two lines", "LARGEGEN_DEBUG"]),
        (MemoryError(), ["--batch-size"]),
        (torch.OutOfMemoryError("CUDA"), ["--batch-size"]),
        (OSError(5, "Input/output error"), ["Input/output error"]),
    ],
)
def test_a_surprise_is_one_line_too(embed, slide_path, monkeypatch, error, words):
    def surprise(*_, **__):
        raise error

    monkeypatch.setattr("largegen.embeddings.embed.embed_slide", surprise)
    code, _, err = embed(slide_path)
    assert code == 1
    assert_one_line(err, *words)
    monkeypatch.setenv("LARGEGEN_DEBUG", "1")
    assert "Traceback" in embed(slide_path)[2]


def test_encoders_lists_width_and_licence(capfd):
    assert run(["encoders"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["uni_v1", "1024"] and "CC-BY-NC-ND-4.0" in line for line in lines)
    assert run(["encoders", "--json"]) == 0
    listed = {entry["name"]: entry for entry in json.loads(capfd.readouterr().out)["encoders"]}
    assert listed["uni_v2"]["width"] == 1536 and listed["phikon"]["page"].endswith("owkin/phikon")
    assert {"hipt_vit256", "ctranspath"} <= set(listed)


def info(capfd, *arguments) -> dict:
    capfd.readouterr()
    assert run(["info", *map(str, arguments), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert run(["info", *map(str, arguments)]) == 0
    text = capfd.readouterr().out
    assert all(f"{key}:" in text for key in found)
    return found


def test_info_of_a_slide(capfd, slide_path, make_slide):
    found = info(capfd, slide_path)
    assert (found["what"], found["width"], found["height"], found["mpp"]) == ("slide", 1300, 1000, 0.5)
    assert found["missing"] == ["magnification"] and found["levels"][0] == "1300x1000"
    bare = info(capfd, make_slide(600, 600, mpp=None, name="bare.svs"))
    assert bare["missing"] == ["mpp", "magnification"]


def test_info_of_a_scene(capfd, scene_path):
    found = info(capfd, scene_path)
    assert (found["what"], found["crs"], found["gsd_m"]) == ("scene", "EPSG:26914", 5.0)


def test_info_of_an_embedding_file(capfd, embed, slide_path, tmp_path):
    embed(slide_path)
    found = info(capfd, tmp_path / "out" / "slide.h5")
    assert found["what"] == "embedding file" and found["complete"] is True
    assert found["encoder_licence"] == "CC-BY-4.0" and found["width"] == 16


def test_info_of_an_encoder(capfd, encoder):
    found = info(capfd, encoder.removeprefix("local-dir:"))
    assert (found["what"], found["width"], found["licence"]) == ("encoder", 16, "CC-BY-4.0")


def test_info_of_what_other_trainings_leave(capfd, encoder, tmp_path):
    from largegen.training.config import AUTOENCODER_PRESETS
    from largegen.training.tasks.autoencoder import build_autoencoder

    runs = tmp_path / "encoder", tmp_path / "vae"
    shutil.copytree(encoder.removeprefix("local-dir:"), runs[0] / "model")
    build_autoencoder(AUTOENCODER_PRESETS["tiny"]).save_pretrained(runs[1] / "model" / "vae")
    for folder in runs:
        (folder / "config.json").write_text('{"steps": 1}')  # the run's own
    found = info(capfd, runs[0])
    assert (found["what"], found["width"], found["licence"]) == ("encoder", 16, "CC-BY-4.0")
    for path in (runs[1], runs[1] / "model", runs[1] / "model" / "vae"):
        found = info(capfd, path)
        assert (found["what"], found["class"]) == ("autoencoder", "ResidualAutoencoder")
        assert (found["factor"], found["channels"]) == (8, 4) and found["weights_mb"] > 0


def test_info_of_a_generated_image(capfd, tmp_path):
    from largegen.images.write import write_image
    from largegen.slides.image_info import ImageInfo

    pixels = np.full((300, 400, 3), 200, np.uint8)
    about = ImageInfo(400, 300, 0.5, None, None, "synthetic", {"seed": 3, "encoder_licence": "Apache-2.0"})
    for name in ("made.tif", "made.png"):
        write_image(tmp_path / name, iter([(0, pixels)]), about)
        found = info(capfd, tmp_path / name)
        assert found["what"] == "generated image" and found["width"] == 400
        assert "Apache-2.0" in json.dumps(found["provenance"])


def test_info_of_a_model(capfd, tmp_path):
    index = {"_class_name": "LargegenModel", "unet": "UNet2DConditionModel", "info": {"licence": "CC0-1.0"}}
    for folder in (tmp_path / "model", tmp_path / "run" / "model"):
        (folder / "unet").mkdir(parents=True)
        (folder / "model_index.json").write_text(json.dumps(index))
        safetensors.torch.save_file({"w": torch.zeros(250_000)}, folder / "unet" / "w.safetensors")
    for path in (tmp_path / "model", tmp_path / "run"):
        found = info(capfd, path)
        assert (found["what"], found["licence"], found["weights_mb"]) == ("model", "CC0-1.0", 1.0)
        assert found["parts"] == {"unet": "UNet2DConditionModel"}
    (tmp_path / "model" / "unet").rename(tmp_path / "elsewhere")
    assert run(["info", str(tmp_path / "model")]) == 2
    assert_one_line(capfd.readouterr().err, "unet/ is missing")


@pytest.mark.parametrize("name", ["text.txt", "text.svs", "cut.h5", "folder", "absent"])
def test_info_of_anything_else_is_one_line(capfd, tmp_path, name):
    if name == "folder":
        (tmp_path / name).mkdir()
    elif name != "absent":
        (tmp_path / name).write_text("nothing of ours")
    assert run(["info", str(tmp_path / name)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert_one_line(err, name)


def test_the_real_slide_without_resolution(shared, embed, tmp_path):
    path = shared / "data" / "TCGA-CR-7395-01A-01-TS1.svs"
    code, _, err = embed(path)
    assert code == 2
    assert_one_line(err, "--source-mpp", "--source-mag")
    assert embed(path, "--source-mag", "10", "--mag", "2.5")[0] == 0
    assert EmbeddingFile(tmp_path / "out" / f"{path.stem}.h5").count > 5


def test_a_closed_pipe_is_no_traceback(slide_path):
    program = f"from largegen.cli import main; main(['info', {str(slide_path)!r}])"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert "Traceback" not in done.stderr
