"""The page of a run in a real browser: the canvas and the losses as they are saved."""

import json

import pytest
from helpers.denoisers import Killed, kill_at, run
from helpers.slides import save_slide, tissue_like

from largegen.view.follow import follow
from largegen.view.server import make_app

from .browser import Look, serving


def test_the_canvas_comes_and_changes(browser, tmp_path):
    with serving(make_app((), follow(tmp_path / "out.tif"))) as address:
        look = Look(browser, address, ready=False)
        look.until("document.querySelector('.follow').textContent.includes('first save')")
        with pytest.raises(Killed):
            run(kill_at(2), batch_size=100, checkpoint=tmp_path / ".out.tif.partial", save_every_s=0)
        look.page.wait_for_selector("#first[data-ready]")
        look.until("document.querySelector('.follow').textContent.includes('2 of 5')")
        assert look.page.evaluate("document.querySelector('progress').value") > 0
        look.close()
    assert not look.faults


def test_losses_are_drawn_and_samples_shown(browser, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"steps": 40}))
    lines = [{"step": step, "loss": 1 / step, "validation_loss": 2 / step} for step in range(10, 31, 10)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "samples").mkdir()
    save_slide(tmp_path / "samples" / "step-000020.png", tissue_like(96, 64))
    with serving(make_app((), follow(tmp_path))) as address:
        look = Look(browser, address)
        look.until("document.querySelectorAll('.losses polyline').length === 2")
        assert "30 of 40" in look.page.inner_text(".follow")
        look.close()
    assert not look.faults
