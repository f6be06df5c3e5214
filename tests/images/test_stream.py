"""Bands go to libvips as they are made: no copy of the image on disk or in memory, and nothing left by failures."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from helpers.disk import small_disk
from helpers.images import ALL, WIDTH, in_bands, noise, pixels, write

from largegen.errors import LargegenError, OutputError
from largegen.images import stream
from largegen.images.write import write_image
from largegen.slides.image_info import ImageInfo, read_provenance

pytest.importorskip("pyvips")


@pytest.mark.parametrize(("width", "height"), [(1, 1), (5, 16), (300, 17), (64, 1000)])
@pytest.mark.parametrize("piece_bytes", [1, 1000, 2**20])
def test_any_size_is_exact_as_png(tmp_path, monkeypatch, width, height, piece_bytes):
    monkeypatch.setattr(stream, "PIECE_BYTES", piece_bytes)
    write_image(tmp_path / "out.png", [(0, noise(height, width))], ImageInfo(width, height))
    np.testing.assert_array_equal(pixels(tmp_path / "out.png"), noise(height, width))


@pytest.mark.parametrize("name", ALL)
def test_no_temporary_grows_with_the_image(tmp_path, name):
    side, on_disk = 2048, []

    def bands():
        for top in range(0, side, 64):
            yield top, np.zeros((64, side, 3), np.uint8)
            on_disk.append(sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()))

    write_image(tmp_path / name, bands(), ImageInfo(side, side))
    assert max(on_disk) < 0.1 * side**2 * 3


def test_memory_does_not_grow_with_the_image(tmp_path):
    pytest.importorskip("resource")
    program = """if True:
        import numpy as np, resource, sys
        from largegen.slides.image_info import ImageInfo
        from largegen.images.write import write_image
        width, height = 2048, int(sys.argv[2])
        band = np.zeros((256, width, 3), np.uint8)
        write_image(sys.argv[1], ((y, band) for y in range(0, height, 256)), ImageInfo(width, height))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    """
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kB here

    def peak(height):
        command = [sys.executable, "-c", program, tmp_path / "out.tif", str(height)]
        return int(subprocess.run(command, capture_output=True, check=True).stdout) * unit

    assert peak(2048 * 16) - peak(2048) < 2048**2 * 3 * 4  # a quarter of the 16 times larger image


def test_bands_are_made_in_the_callers_thread_and_to_their_end(tmp_path, image, info):
    seen = []

    def bands():
        for band in in_bands(image):
            seen.append(threading.get_ident())
            yield band
        seen.append("end")

    write_image(tmp_path / "out.tif", bands(), info)
    assert set(seen[:-1]) == {threading.get_ident()} and seen[-1] == "end"


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, LargegenError])
@pytest.mark.parametrize("rows", [0, 100])
def test_an_error_in_the_bands_leaves_the_old_file_alone(tmp_path, image, info, name, failure, rows):
    def failing():
        if rows:
            yield 0, image[:rows]
        raise failure("of the bands")

    with pytest.raises(failure, match="of the bands"):
        write_image(tmp_path / "new" / name, failing(), info)
    assert list((tmp_path / "new").iterdir()) == []
    path = write(tmp_path / name, image, info)
    with pytest.raises(failure, match="of the bands"):
        write_image(path, failing(), replace(info, description="second"))
    assert read_provenance(path) == info.record()


def test_bands_that_do_not_fit_are_refused(tmp_path, image, info):
    for bands in (
        [(0, image[:100])],  # too few
        [(0, image), (len(image), image[:5])],  # too many
        [(0, image[:100]), (200, image[200:])],  # a gap
        [(0, image[:, :600])],  # too narrow
        [(0, image.astype(np.float32))],
    ):
        with pytest.raises(ValueError, match="band"):
            write_image(tmp_path / "out.tif", iter(bands), info)
    assert list(tmp_path.iterdir()) == []


PROGRAM = """if True:
    import sys, time
    import numpy as np
    from largegen.slides.image_info import ImageInfo
    from largegen.images.write import write_image
    side = 6000
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)

    def bands():
        if sys.argv[2] == "bands":
            yield 0, image[:500]
            print("begun", flush=True)
            for _ in range(600):  # a signal just before a sleep waits for its end
                time.sleep(0.1)
        print("begun", flush=True)
        yield 0, image

    write_image(sys.argv[1], bands(), ImageInfo(side, side))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGINT") or os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize("interrupted", ["bands", "libvips"])
@pytest.mark.parametrize("name", ALL)
def test_ctrl_c_leaves_nothing(tmp_path, name, interrupted):
    command = [sys.executable, "-c", PROGRAM, tmp_path / name, interrupted]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert job.stdout.readline() == "begun\n"
    while not any(tmp_path.iterdir()):
        assert job.poll() is None, "finished before it could be interrupted"
    job.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in job.communicate(timeout=20)[1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size_kb", [100, 300, 600])  # the files have 704 kB and more
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, info, name, size_kb):
    with small_disk(tmp_path / "disk", size_kb) as folder:
        with pytest.raises(OutputError, match="no space left on the disk") as caught:
            write(folder / name, noise(), info)
        assert len(str(caught.value).splitlines()) == 1
        assert list(folder.iterdir()) == []


def test_a_full_disk_is_noticed_before_all_bands_are_made(tmp_path):
    made = []

    def bands():
        for number in range(100):
            made.append(number)
            yield 500 * number, noise(500)

    with small_disk(tmp_path / "disk", 1200) as folder, pytest.raises(OutputError, match="no space left on the disk"):
        write_image(folder / "out.tif", bands(), ImageInfo(WIDTH, 50_000))
    assert len(made) < 50


def test_a_disk_that_fills_up_while_bands_arrive(tmp_path, info):
    with small_disk(tmp_path / "disk", 1200) as folder:

        def bands():
            (folder / "someone-elses").write_bytes(bytes(800_000))
            yield from in_bands(noise())

        with pytest.raises(OutputError, match="no space left on the disk"):
            write_image(folder / "out.tif", bands(), info)
        assert [file.name for file in folder.iterdir()] == ["someone-elses"]
