"""The server gives what it was told to give, to this machine's own pages, and nothing else."""

import io
import itertools
import json
import os
import re

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("httpx", reason="httpx is not installed")
from starlette.testclient import TestClient

from largegen.slides.slide import open_slide
from largegen.view import server
from largegen.view.guard import POLICY
from largegen.view.pages import FILES
from largegen.view.scene import open_scene
from largegen.view.server import make_app

SECRET = "what no page may show"


@pytest.fixture(scope="module")
def client(scene):
    return TestClient(make_app([scene]), base_url="http://127.0.0.1:8000")


def scene_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="scene">(.*)</script>', page)[1])


def test_the_page_says_what_is_shown(client, result_path, slide_path):
    found = scene_of(client.get("/").text)
    roles = [picture["role"] for picture in found["pictures"]]
    assert roles == ["result", "reference", "guide", "level"] and found["title"] == "made.tif"
    assert found["scale"] == {"unit": "um", "size": 0.5} and (found["width"], found["height"]) == (768, 512)
    assert found["pictures"][1]["box"] == [-256, -128, 1300, 1000]
    assert found["pictures"][2]["box"] == [0, 0, 768, 512]
    made = dict(dict(found["pictures"][0]["facts"])["Made by"])
    assert made["command"] == "largegen generate --ref slide.tif" and made["seed"] == "7"


def test_tiles_are_the_files_pixels(client, slide_path):
    answer = client.get("/0/tiles/1/3/1_2.jpg")
    assert answer.headers["content-type"] == "image/jpeg"
    with open_slide(slide_path) as slide:
        expected = slide.read(256, 512, 256, 256)
    found = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert np.abs(found.astype(int) - expected).mean() < 3


def test_all_answers_forbid_what_the_page_does_not_need(client):
    for address in ("/", "/page/main.js", "/0/tiles/0/0/0_0.jpg", "/0/overlays/grid.json", "/none"):
        headers = client.get(address).headers
        assert headers["content-security-policy"] == POLICY and headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert not [name for name in headers if name.startswith("access-control")]
    assert "unsafe" not in POLICY


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        *(
            (name, 421)
            for name in ("evil.example", "127.0.0.1.evil.example:8000", "localhost:", "127.0.0.1:80@evil", "")
        ),
    ],
)
def test_only_this_machines_name_is_answered(client, host, status):
    assert client.get("/", headers={"host": host}).status_code == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_nothing_can_be_written(client, method):
    assert client.request(method, "/").status_code == 405


def crafted() -> list[str]:
    """Addresses that try to leave what is served."""
    ways = ["..", "%2e%2e", "%252e%252e", "..%2f", "..%5c", "....//", "%c0%ae%c0%ae", "..;", "\\..", "%00"]
    targets = ["secret.txt", "etc/passwd", "made.tif", "made.tif.json", "view.css%00.js"]
    starts = ["/", "/page/", "/0/tiles/0/", "/0/overlays/"]
    found = [f"{start}{way}/{target}" for start, way, target in itertools.product(starts, ways, targets)]
    numbers = ["-1", "99", "1e3", "9" * 40, "0x0", "%30", " ", "0.5"]
    found += [f"/0/tiles/0/{level}/0_0.jpg" for level in numbers if level != "%30"]
    found += [f"/0/tiles/0/0/{col}_0.jpg" for col in numbers if col != "%30"]
    found += [f"/{number}/" for number in numbers if number != "%30"]
    found += ["/0/tiles/0/0/0_0.jpg/../../../secret.txt", "/page/secret.txt", "/secret.txt", "//127.0.0.1/secret.txt"]
    found += ["/" + "a" * 400, "/?" + "b" * 400, "/0/tiles/" + "1" * 280 + "/0/0_0.jpg", "/page/scene.html"]
    return found


def test_200_crafted_addresses_give_nothing_but_what_was_named(client, scene, result_path, slide_path):
    """Beside the image lie a file and links that an address could lead to."""
    folder = result_path.parent
    (folder / "secret.txt").write_text(SECRET)
    for name in ("tiles", "page", "0"):
        (folder / name).symlink_to(folder) if hasattr(os, "symlink") else None
    addresses = crafted()
    assert len(addresses) >= 200
    named = {content for content, _ in FILES.values()} | {client.get("/").content}
    for address in addresses:
        answer = client.get(address, follow_redirects=False)
        assert answer.status_code in (307, 400, 404, 414) or answer.content in named, address
        assert SECRET not in answer.text and "root:" not in answer.text, address


def test_too_many_tiles_at_once_are_refused(client, monkeypatch):
    monkeypatch.setattr(server, "MOST_WAITING", 0)
    answer = client.get("/0/tiles/0/0/0_0.jpg")
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"


def test_a_damaged_part_is_an_error_without_paths(slide_path, tmp_path):
    damaged = tmp_path / "damaged.tif"
    content = bytearray(slide_path.read_bytes())
    content[2000 : len(content) // 2] = bytes(len(content) // 2 - 2000)
    damaged.write_bytes(content)
    client = TestClient(make_app([open_scene(damaged)]), base_url="http://127.0.0.1")
    answers = [client.get(f"/0/tiles/0/3/{col}_{row}.jpg") for col in range(6) for row in range(4)]
    bad = [answer for answer in answers if answer.status_code == 500]
    assert bad and all(str(tmp_path) not in answer.text for answer in bad)


def test_a_gallery_of_several(scene, slide_path):
    client = TestClient(make_app([scene, open_scene(slide_path)]), base_url="http://127.0.0.1")
    page = client.get("/").text
    assert "2 images" in page and 'href="1/"' in page and "384 µm × 256 µm" in page
    assert scene_of(client.get("/1/").text)["title"] == "slide.tif"
    small = Image.open(io.BytesIO(client.get("/1/thumbnail.jpg").content))
    assert small.size == (512, 394)
    assert client.get("/2/").status_code == 404
