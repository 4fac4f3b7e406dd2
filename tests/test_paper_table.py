"""`benchmarks/paper_table.py`: equal costs, held-out clips, and a table that is made once and goes on."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pavdm import small_model
from pavdm.batch.claims import Work
from pavdm.batch.items import Item
from pavdm.batch.member import Launch, write_json
from pavdm.batch.work import Job
from pavdm.errors import InputError
from pavdm.prompts import PromptSchedule
from pavdm.sampling.schedule import Schedule
from pavdm.settings import Settings
from pavdm.training.world import make_scene
from pavdm.training.world_measure import visible_colours
from pavdm.video_reader import probe, read_frames
from pavdm.video_writer import VideoWriter

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


@pytest.fixture
def paper_report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import paper_report

    return paper_report


@pytest.fixture
def paper_world(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import paper_world

    return paper_world


def a_minute(**changes: object) -> Settings:
    usual = {"prompt": PromptSchedule.parse("x"), "out": Path("x.mp4"), "clip": Path("c.mp4"), "seconds": 60.0}
    return Settings(**{**usual, **changes})


def quick(models: Path, out: Path) -> list[str]:
    """One short pair by random networks."""
    arguments = ["--models", str(models), "--out", str(out), "--pairs", "1", "--seconds", "0.7", "--size", "48x72"]
    return [*arguments, "--window-chunks", "2", "--steps", "10", "--device", "cpu", "--quiet"]


def test_every_method_costs_the_same_for_a_new_latent(methods: ModuleType) -> None:
    arms = methods.arms(a_minute())
    shapes = {name: (arm.schedule.steps, arm.schedule.window_latents) for name, arm in arms.items()}
    assert shapes["PA-VDM"] == (30, 35) and shapes["no variable length"] == (30, 35)
    assert shapes["no chunking"] == (34, 35) and arms["no chunking"].schedule.chunk_latents == 1
    assert shapes["no overlapped conditioning"] == (35, 35)
    assert arms["replacement loop"].schedule.steps == 23  # 23 x 15 for 10 new ones is 34.5 for one
    assert methods.frames_needed(arms.values()) == 102
    for settings in (a_minute(), a_minute(schedule=small_model.SCHEDULE)):
        spent = {name: methods.evaluations(arm, 119)[1] for name, arm in methods.arms(settings).items()}
        assert max(spent.values()) < 1.08 * min(spent.values()), spent


def test_steps_too_few_for_equal_costs_are_refused(methods: ModuleType) -> None:
    with pytest.raises(InputError, match=r"cannot cost the same .*PA-VDM 14\.0, no chunking 35\.0"):
        methods.arms(a_minute(schedule=Schedule(steps=12)))


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


def test_the_clips_show_scenes_that_training_leaves_alone(paper_world: ModuleType, tmp_path: Path) -> None:
    listed = paper_world.write_world(tmp_path, 2, (64, 96), 24.0)
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
    arguments = [*quick(models, out), "--results", str(results), "--label", "Random networks"]
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
    assert "1 pair of 0.7 s (a part: the whole table is 40 pairs of 60 s)" in first
    capsys.readouterr()

    videos = sorted(out.glob("*/pair_0000.mp4"))
    assert len(videos) == 6
    made = {video: video.stat().st_mtime_ns for video in videos}
    measures = [video.parent / "work" / video.stem / "measures.json" for video in videos]
    taken = [file.stat().st_mtime_ns for file in measures]
    earlier = json.loads(measures[0].read_text())
    measures[0].write_text(json.dumps({**earlier, "summary": {"scenes": 9}}))  # of the video that was there before
    videos[0].unlink()
    assert paper_table.main(arguments) == 0
    assert [video for video in videos if video.stat().st_mtime_ns != made[video]] == [videos[0]]
    assert [line for line in results.read_text().splitlines() if line.startswith("| ")] == rows
    assert [file.stat().st_mtime_ns for file in measures[1:]] == taken[1:]
    assert results.read_text().count("<!-- paper_table") == 1

    for option, value, message in (
        ("--guidance", "2", "guidance scale: 7.0 then, 2.0 now"),
        ("--text-dtype", "bf16", "text dtype: torch.float32 then, torch.bfloat16 now"),
        ("--tile", "8", "tile: None then, 8 now"),
    ):
        assert paper_table.main([*arguments, option, value]) == 2
        assert message in capsys.readouterr().err


def test_a_table_that_is_asked_to_stop_says_so_and_goes_on(
    paper_table: ModuleType,
    models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = quick(models, tmp_path / "out")
    make = paper_table.MeasuringMaker.make

    def make_and_terminate(maker: Any, settings: Settings, monitor: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return make(maker, settings, monitor)

    monkeypatch.setattr(paper_table.MeasuringMaker, "make", make_and_terminate)
    assert paper_table.main(arguments) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*/pair_*.mp4"))
    assert [path.name for path in (tmp_path / "out").glob("*/work/*/released-*")] == ["released-0001"]

    def too_large(maker: Any, settings: Settings, monitor: Any) -> Any:
        raise MemoryError("out of memory")

    monkeypatch.setattr(paper_table.MeasuringMaker, "prepare", lambda maker: too_large(maker, a_minute(), None))
    assert paper_table.main(arguments) == 2
    assert "the memory does not suffice" in capsys.readouterr().err


def test_what_is_complete_from_the_first_pair_on_can_have_a_table(paper_table: ModuleType, tmp_path: Path) -> None:
    settings = a_minute()
    jobs = {
        name: [Job(Item(f"{name}{n}", n + 1, 0, settings), Work(tmp_path, f"{name}{n}"), {}) for n in range(4)]
        for name in ("a", "b")
    }
    bench = paper_table.Bench(tmp_path, jobs, of_world=True, origin={})
    for finished, said in (("a0 a1", ""), ("b0", "--pairs 1 makes"), ("a3 b3", "--pairs 1 makes"), ("b1", "--pairs 2")):
        for name in finished.split():
            Work(tmp_path, name).folder.mkdir(parents=True)
            Work(tmp_path, name).video.touch()
            write_json(Work(tmp_path, name).folder / "done.json", {})
        told = paper_table._what_is_there(bench)
        assert told.startswith(said) and bool(told) == bool(said)
    assert bench.complete == [0, 1, 3]


def test_the_world_is_measured_behind_the_codec_of_the_others(
    paper_table: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = a_minute(seconds=0.7, size=(48, 72))
    job = Job(Item("PA-VDM/pair_0000", 1, 0, settings), Work(tmp_path, "pair_0000"), {"clip": "of this world"})
    measured: list[Any] = []

    def measure(video: Any, **how: Any) -> Any:
        measured.append(probe(video).num_frames)
        return paper_measure(video, **how)

    paper_measure = paper_table.measure
    monkeypatch.setattr(paper_table, "measure", measure)
    bench = paper_table.Bench(tmp_path, {"PA-VDM": [job]}, of_world=True, origin={"commit": "abc"})
    found = bench.of_truth(job)
    assert measured == [119 + 17] and found.summary["scenes"] == 1 and found.summary["colours_right"] == 1
    assert bench.of_truth(job) == found and len(measured) == 1
    changed = replace(job, made_from={"clip": "of another world"})
    assert bench.of_truth(changed).origin == {"commit": "abc", "clip": "of another world"} and len(measured) == 2
    assert [path.suffix for path in (tmp_path / "measures").iterdir()] == [".json"]


def test_every_pair_has_a_seed_of_its_own_and_every_method_the_same(
    paper_table: ModuleType, models: Path, tmp_path: Path
) -> None:
    options = paper_table._options([*quick(models, tmp_path), "--pairs", "3", "--seed", "5"])
    networks = paper_table.Networks(paper_table.models_from(options), paper_table.precision_from(options))
    jobs = paper_table._bench(options, networks).jobs
    assert len(jobs) == 6
    assert {tuple(job.item.settings.seed for job in row) for row in jobs.values()} == {(5, 6, 7)}
    assert {tuple(job.made_from["seed"] for job in row) for row in jobs.values()} == {("5", "6", "7")}


def test_what_cannot_have_a_table_is_refused_before_anything_is_made(
    paper_table: ModuleType,
    models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, listed, short = tmp_path / "out", tmp_path / "list.txt", tmp_path / "short.mp4"
    with VideoWriter(short, (48, 72), 24.0) as writer:
        writer.write(np.zeros((34, 48, 72, 3), np.uint8))
    own = ["--models", str(models), "--out", str(out)]
    for text, options, message in (
        ("a||short.mp4", [], "short.mp4 has 34 frames at 24 fps, and the methods fill their window from 102"),
        ("a", [], "give every line of the list one, as TEXT||CLIP"),
        (None, [], "give --list, or --size HxW"),
        (None, ["--size", "48x72", "--results", str(tmp_path / "results.md")], "give --label NAME"),
        (None, ["--size", "48x72", "--resolution", "144p"], "--resolution is for --list"),
        (None, ["--size", "48x72", "--steps", "6"], "cannot cost the same"),
    ):
        if text is not None:
            listed.write_text(text)
        used = options if text is None else ["--list", str(listed), *options]
        assert paper_table.main([*own, *used, "--device", "cpu"]) == 2
        assert message in capsys.readouterr().err
    assert not list(out.glob("*/work")) and not (tmp_path / "results.md").exists()


def test_what_fails_is_named_and_the_exit_status_tells(
    paper_table: ModuleType,
    models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make = paper_table.MeasuringMaker.make

    def make_most(maker: Any, settings: Settings, monitor: Any) -> Any:
        if not settings.schedule.variable_length:
            raise InputError("not this one")
        return make(maker, settings, monitor)

    monkeypatch.setattr(paper_table.MeasuringMaker, "make", make_most)
    assert paper_table.main(quick(models, tmp_path / "out")) == 1
    said = capsys.readouterr().err
    assert "not made: no-variable-length/pair_0000, see " in said and "there is no table" in said


def test_under_torchrun_every_rank_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = Launch(rank=11, local_rank=3, world_size=16)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert launch.device("auto") == "auto"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    assert [launch.device(chosen) for chosen in ("auto", "cuda", "cuda:1", "cpu")] == [
        *("cuda:3", "cuda:3", "cuda:1", "cpu")
    ]
    assert Launch(rank=1, local_rank=9, world_size=16).device("auto") == "cuda:1"
    assert Launch().device("auto") == "auto"


def test_a_star_is_for_a_sure_difference_and_a_count_for_missing_values(paper_report: ModuleType) -> None:
    spread = [1.0, 3.0, 2.0, 5.0, 4.0, 7.0, 6.0, 8.0]
    columns = {
        "ours": spread,
        "higher": [value + 0.5 for value in spread],  # by less than they are spread: only pairs can tell
        "as much": [value + (0.5 if n % 2 else -0.5) for n, value in enumerate(spread)],
        "some missing": [None, *(value + 0.5 for value in spread[1:])],
        "none": [None] * 8,
    }
    rows = {
        paper_report.OURS if name == "ours" else name: [
            paper_report.Measured({"seam_ratio": value}, {}) for value in values
        ]
        for name, values in columns.items()
    }

    def cells(count: int) -> dict[str, str]:
        of_first = {name: row[:count] for name, row in rows.items()}
        lines = paper_report.table(of_first, {}, {}, 60.0)
        found = (line.strip("| ").split(" | ") for line in lines[4:])
        return {cell[0]: cell[-1] for cell in found}

    whole = cells(8)
    assert whole["PA-VDM"].startswith("4.50 [") and whole["higher"].startswith("5.00 [")
    stars = {name: "*" in cell for name, cell in whole.items()}
    # one of eight is missing, and seven are too few for a star
    assert stars == {"PA-VDM": False, "higher": True, "as much": False, "some missing": False, "none": False}
    assert whole["some missing"].endswith(" (7)") and whole["none"] == "-"
    assert "*" not in "".join(cells(7).values())
