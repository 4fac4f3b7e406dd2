"""`benchmarks/paper_table.py`: equal costs, held-out clips, and a table that is made once and goes on."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from pavdm.errors import InputError
from pavdm.prompts import PromptSchedule
from pavdm.sampling.schedule import Schedule
from pavdm.settings import Settings
from pavdm.training.world import make_scene
from pavdm.training.world_measure import visible_colours
from pavdm.video_reader import read_frames

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def methods(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import paper_methods

    return paper_methods


@pytest.fixture
def paper_table(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import paper_table

    return paper_table


def a_minute(**changes: object) -> Settings:
    usual = {"prompt": PromptSchedule.parse("x"), "out": Path("x.mp4"), "clip": Path("c.mp4"), "seconds": 60.0}
    return Settings(**{**usual, **changes})


def test_every_method_costs_the_same_for_a_new_latent(methods: ModuleType) -> None:
    arms = methods.arms(a_minute())
    shapes = {name: (arm.schedule.steps, arm.schedule.window_latents) for name, arm in arms.items()}
    assert shapes["PA-VDM"] == (30, 35) and shapes["no variable length"] == (30, 35)
    assert shapes["no chunking"] == (34, 35) and arms["no chunking"].schedule.chunk_latents == 1
    assert shapes["no overlapped conditioning"] == (35, 35)
    assert arms["replacement loop"].schedule.steps == 23  # 23 x 15 for 10 new ones is 34.5 for one
    spent = {name: methods.evaluations(arm, 119)[1] for name, arm in arms.items()}
    assert max(spent.values()) < 1.08 * min(spent.values()), spent


def test_what_a_video_takes_of_the_network_is_what_the_table_of_levels_says(methods: ModuleType) -> None:
    arms = methods.arms(a_minute())
    chunks = 85  # 1440 frames in pieces of 17
    calls = 84 * 5 + 30
    # every chunk is there for its 30 levels, and the clean one at every call
    assert methods.evaluations(arms["PA-VDM"], 119) == (calls, chunks * 5 * 30 + calls * 5)
    calls = 424 + 34
    assert methods.evaluations(arms["no chunking"], 119) == (calls, 425 * 34 + calls)
    loops = 43  # of 34 new frames
    assert methods.evaluations(arms["replacement loop"], 119) == (loops * 23, loops * 23 * 15)


def test_the_table_starts_from_the_whole_method(methods: ModuleType) -> None:
    for incomplete in (Schedule(overlap=False), Schedule(variable_length=False)):
        with pytest.raises(InputError, match="in full"):
            methods.arms(a_minute(schedule=incomplete))


def test_the_clips_show_scenes_that_training_leaves_alone(paper_table: ModuleType, tmp_path: Path) -> None:
    listed = paper_table.write_world(tmp_path, 2, (64, 96), 24.0)
    for number, line in enumerate(listed.read_text().splitlines()):
        caption, _, name = line.partition("||")
        scene = make_scene(1_000_000_000 + number)
        frames = np.stack(list(read_frames(tmp_path / name)))
        assert caption == scene.caption
        assert frames.shape == (119, 64, 96, 3)
        wanted = {body.colour for body in scene.bodies}
        assert np.mean([set(seen) == wanted for seen in visible_colours(frames)]) > 0.5


def test_a_table_is_made_once_and_only_what_is_missing_again(
    paper_table: ModuleType,
    models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, results = tmp_path / "out", tmp_path / "results.md"
    results.write_text("# Results\n\nsomething else\n")
    arguments = ["--models", str(models), "--out", str(out), "--pairs", "1", "--seconds", "0.7", "--size", "48x72"]
    arguments += ["--window-chunks", "2", "--steps", "2", "--device", "cpu", "--quiet", "--results", str(results)]
    monkeypatch.setattr(sys, "argv", ["paper_table.py", *arguments])
    assert paper_table.main(arguments) == 0
    first = results.read_text()
    assert first.startswith("# Results\n\nsomething else\n") and str(tmp_path) not in first
    rows = [line for line in first.splitlines() if line.startswith("| ")]
    names = [row.split(" | ")[0].strip("| ") for row in rows[1:]]
    assert names == [
        *("PA-VDM", "no chunking", "no overlapped conditioning", "no variable length"),
        *("replacement loop", "replacement loop, re-encoded", "the world itself"),
    ]
    world = rows[-1].split(" | ")
    assert world[-1].strip(" |") == "1.00"  # the scene's own frames have just its colours
    capsys.readouterr()

    videos = sorted(out.glob("*.mp4"))
    assert len(videos) == 6
    made = {video: video.stat().st_mtime_ns for video in videos}
    measures = [out / "work" / video.stem / "measures.json" for video in videos]
    taken = [file.stat().st_mtime_ns for file in measures]
    measures[0].write_text('{"scenes": 9, "moving": 0.5}')  # of the video that was there before
    videos[0].unlink()
    assert paper_table.main(arguments) == 0
    assert [video for video in videos if video.stat().st_mtime_ns != made[video]] == [videos[0]]
    assert [line for line in results.read_text().splitlines() if line.startswith("| ")] == rows
    assert [file.stat().st_mtime_ns for file in measures[1:]] == taken[1:]
    assert results.read_text().count("<!-- paper_table") == 1

    assert paper_table.main([*arguments, "--guidance", "2"]) == 2
    assert "guidance scale: 7.0 then, 2.0 now" in capsys.readouterr().err
