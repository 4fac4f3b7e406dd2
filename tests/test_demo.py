"""The small model that ships, and `pavdm demo`, which shows it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pavdm import small_model
from pavdm.cli import main
from pavdm.evaluation import measure
from pavdm.evaluation.reconstruction import reconstruction_psnr
from pavdm.frames import to_frames, to_pixels
from pavdm.models.checkpoint import load_stdit3, load_vae
from pavdm.models.files import find_models
from pavdm.options import parser, settings_from
from pavdm.training.world import HELD_OUT, draw, make_scene, render
from pavdm.training.world_measure import colours_right
from pavdm.video_reader import read_frames


def test_the_small_model_ships_whole_in_12_mb_and_is_found_as_any_other() -> None:
    weights = list(small_model.FOLDER.rglob("*.safetensors"))
    assert sorted(path.name for path in weights) == [
        f"pavdm-tiny-{n}.safetensors" for n in ("stdit", "text-encoder", "vae")
    ]
    assert sum(path.stat().st_size for path in weights) <= 12e6
    assert find_models(small_model.FOLDER) == small_model.files()
    assert all(parameter.isfinite().all() for parameter in load_stdit3(small_model.files().stdit).parameters())


def test_the_vae_keeps_what_a_held_out_clip_shows_and_its_pieces_join() -> None:
    vae = load_vae(small_model.files().vae, torch.device("cpu"), torch.float32)
    kept, seams = [], []
    for number in range(8):
        frames = render(HELD_OUT + number, 68)[0]
        kept.append(reconstruction_psnr(vae, frames))
        with torch.inference_mode():
            decoded = to_frames(vae.decode(vae.encode(to_pixels(frames)))[0])
        seams.append(measure(decoded, chunk_frames=17).summary["seam_ratio"])
    assert np.mean(kept) >= 30  # of 32 clips: docs/pavdm-tiny.md
    assert np.mean(seams) <= 1.15


def test_reconstruction_is_scored_as_psnr_is_defined() -> None:
    class Offset(torch.nn.Module):
        """Gives everything back 10 levels of 255 too bright."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        encode = staticmethod(lambda pixels: pixels)
        decode = staticmethod(lambda pixels: pixels + 10 / 127.5)

    frames = np.full((20, 8, 8, 3), 100, np.uint8)
    assert reconstruction_psnr(Offset(), frames) == pytest.approx(20 * np.log10(255 / 10), abs=1e-4)  # type: ignore[arg-type]


def test_colours_are_right_only_where_none_is_lost_and_none_is_new() -> None:
    scene = next(s for s in map(make_scene, range(HELD_OUT, HELD_OUT + 50)) if len(s.bodies) == 1 and s.light == "day")
    right = draw(scene, 6, (64, 96))
    taken = scene.bodies[0].colour
    other = replace(scene.bodies[0], colour="blue" if taken != "blue" else "red")
    wrong = draw(replace(scene, bodies=(other,)), 3, (64, 96))
    none = draw(replace(scene, bodies=()), 3, (64, 96))
    assert colours_right(right, scene) == 1
    assert colours_right(np.concatenate([right, wrong, none]), scene) == 0.5


def test_the_printed_options_make_the_same_settings(tmp_path: Path) -> None:
    typed = ["generate", "--prompt", "x", "--seconds", "2", "--out", str(tmp_path / "x.mp4"), *small_model.options()]
    assert settings_from(parser().parse_args(typed)) == small_model.settings("x", tmp_path / "x.mp4", seconds=2.0)


def test_a_demo_leaves_clip_video_sheet_and_report_and_says_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shown"
    demo = ["demo", "--out", str(out), "--seconds", "1.5", "--seed", "3", "--quiet", "--device", "cpu"]
    assert main(demo) == 0
    said = capsys.readouterr().out
    scene = make_scene(HELD_OUT + 3)
    assert said.startswith(scene.caption)
    for name in ("clip.mp4", "video.mp4", "contact_sheet.png", "report/index.html"):
        assert (out / name).stat().st_size > 0
        assert str(out / name) in said
    frames = np.stack(list(read_frames(out / "video.mp4")))
    assert frames.shape == (64 + 36, 64, 96, 3)
    assert np.abs(frames[:64].astype(int) - draw(scene, 64, (64, 96))).mean() < 6  # begins with the clip
    assert Image.open(out / "contact_sheet.png").size == (6 * 192, 4 * 128)
    page = (out / "report" / "index.html").read_text(encoding="utf-8")
    assert "At a glance" in page and "colours and count right" in page
    assert json.loads((out / "report" / "report.json").read_text())["videos"]

    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert main(demo) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--seed", "-1"], "from 0 on: got -1"),
        (["--seconds", "0"], "above 0"),
        (["--out", "FILE"], "is a file"),
        (["--device", "gpu"], "'gpu' cannot be used"),
    ],
)
def test_a_wrong_wish_leaves_nothing_behind(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "FILE").write_text("mine")
    arguments = [str(tmp_path / "FILE") if word == "FILE" else word for word in arguments]
    assert main(["demo", "--out", str(tmp_path / "shown"), "--quiet", *arguments]) == 2
    assert says in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["FILE"]
    assert (tmp_path / "FILE").read_text() == "mine"
