"""`pavdm train`: what is typed, what it prints, and how it ends."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from memory_source import MemorySource
from safetensors.torch import load_file

from pavdm import cli
from pavdm.models.checkpoint import load_stdit3, save_vae
from pavdm.models.vae import VideoVAE, initialize_weights
from pavdm.new_model import PRESETS
from pavdm.options import parser
from pavdm.training import options as training_options
from pavdm.training.stdit import options as stdit_options
from pavdm.training.task import Extent
from pavdm.video_reader import probe

CPU = ["--cpu", "--workers", "0", "--quiet", "--warmup", "0", "--learning-rate", "1e-3"]
SMALL = ["--window-chunks", "2", "--chunk", "2", "--denoise-steps", "4", "--like", "tiny", "--sample-chunks", "2"]


@pytest.fixture(autouse=True)
def source(monkeypatch: pytest.MonkeyPatch) -> MemorySource:
    made = MemorySource()
    monkeypatch.setattr(stdit_options, "open_clips", lambda options: made)
    torch.set_num_threads(1)
    return made


def test_a_network_trained_from_nothing_extends_a_clip(
    tmp_path: Path, models: Path, bikes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    command = ["train", *SMALL, *CPU, "--out", str(run), "--steps", "3", "--save-every", "2", "--sample-every", "2"]
    assert cli.main(command) == 0
    assert "the weights to use are in" in capsys.readouterr().out
    assert sorted(path.name for path in (run / "samples").iterdir()) == ["step-000002.mp4", "step-000003.mp4"]
    network = run / "step-000003" / "model"
    out = tmp_path / "long.mp4"
    extend = ["extend", str(bikes), "--prompt", "a ride", "--seconds", "0.7", "--size", "32x48", "--steps", "4"]
    extend += ["--window-chunks", "2", "--models", str(models), "--stdit", str(network), "--out", str(out), "--quiet"]
    assert cli.main(extend) == 0
    assert probe(out).num_frames > 17


def test_a_checkpoint_is_fine_tuned_whole_and_by_lora(tmp_path: Path, models: Path) -> None:
    start = models / "stdit"
    both = [
        "train",
        *SMALL[:6],
        *CPU,
        "--from",
        str(start),
        "--steps",
        "2",
        "--sample-every",
        "1",
        "--sample-chunks",
        "1",
    ]
    assert cli.main([*both, "--out", str(tmp_path / "whole")]) == 0
    before, after = load_stdit3(start).state_dict(), load_stdit3(tmp_path / "whole/step-000002/raw").state_dict()
    assert all(float((after[name] - before[name]).abs().max()) < 0.01 for name in before)
    assert any(not torch.equal(after[name], before[name]) for name in before)
    vae = ["--sample-vae", str(models / "vae")]
    assert cli.main([*both, *vae, "--lora", "2", "--precision", "bf16", "--out", str(tmp_path / "lora")]) == 0
    assert len(load_file(tmp_path / "lora/step-000002/model/lora.safetensors")) == 3 * 7 * 4
    assert (tmp_path / "lora/samples/step-000002.mp4").is_file()


def test_ctrl_c_saves_and_the_same_command_goes_on(
    tmp_path: Path, source: MemorySource, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", *SMALL, *CPU, "--steps", "4", "--sample-every", "0"]
    whole, stopped = ([*command, "--out", str(tmp_path / name)] for name in ("whole", "stopped"))
    assert cli.main(whole) == 0
    source.signal_at = 1
    assert cli.main(stopped) == 130
    assert "goes on from" in (said := capsys.readouterr().err) and "step-000002" in said
    source.signal_at = None
    assert cli.main(stopped) == 0
    for file in ("loss.jsonl", "step-000004/state.safetensors"):
        assert (tmp_path / "stopped" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_recipe_file_is_read_as_typed_and_what_follows_counts(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.txt"
    recipe.write_text("# the small one\n--like tiny  # from nothing\n\n--steps 100 --data 'a folder'\n")
    read = parser().parse_args(["train", f"@{recipe}", "--steps", "7", "--out", "run"])
    assert (read.like, read.steps, read.data, read.out) == ("tiny", 7, "a folder", Path("run"))


def test_defaults_on_the_command_line_are_those_of_the_library() -> None:
    from pavdm.sampling.schedule import Schedule
    from pavdm.training.run_options import RunOptions
    from pavdm.training.stdit.noising import ProgressiveWindows
    from pavdm.training.stdit.windows import TrainingWindows

    read = parser().parse_args(["train", "--steps", "10000", "--out", "run"])
    assert training_options.run_options(read) == RunOptions(steps=10_000, workers=2, sample_every=1000)
    assert stdit_options.noising_from(read) == ProgressiveWindows(TrainingWindows(Schedule()))


def test_what_windows_are_trained_is_read_from_the_command_line() -> None:
    from pavdm.sampling.schedule import Schedule
    from pavdm.training.stdit.noising import ProgressiveWindows
    from pavdm.training.stdit.windows import TrainingWindows

    shares = ["--partial-share", "0.1", "--text-only-share", "0.2", "--resampled-share", "0.3"]
    read = parser().parse_args(
        ["train", "--steps", "1", "--out", "run", *shares, "--window-chunks", "3", "--denoise-steps", "15"]
    )
    windows = TrainingWindows(Schedule(3, 5, 15), partial_share=0.1, text_only_share=0.2, resampled_share=0.3)
    assert stdit_options.noising_from(read) == ProgressiveWindows(windows)


def test_a_short_run_reaches_its_learning_rate() -> None:
    short = ["train", "--out", "run", "--learning-rate", "0.5", "--steps", "50"]
    for typed, reached in (([], 5), (["--warmup", "20"], 20), (["--warmup", "0"], 0)):
        options = training_options.run_options(parser().parse_args([*short, *typed]))
        assert (options.rate(reached - 1) < 0.5 or reached == 0) and options.rate(reached) == 0.5


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--what", "vae", "--lora", "4"], "--lora belongs to --what stdit, not to vae"),
        (["--what", "vae", "--objective", "whole-clip"], "--objective belongs to --what stdit"),
        (["--what", "vae", "--text-encoder", "there"], "--text-encoder has no meaning for --what vae"),
        (["--part", "spatial"], "--part belongs to --what vae, not to stdit"),
        (["--vocabulary", "300"], "--vocabulary belongs to --what text-encoder, not to stdit"),
        (["--what", "text-encoder", "--vae", "there"], "--vae has no meaning for --what text-encoder"),
        (["--what", "text-encoder", "--size", "64x96"], "--size has no meaning for --what text-encoder"),
        (["--what", "text-encoder", "--sample-every", "5"], "--sample-every has no meaning for --what text-encoder"),
        (["--timesteps", "uniform"], "--timesteps belongs to --objective whole-clip"),
        (["--objective", "whole-clip", "--partial-share", "1"], "--partial-share belongs to --objective progressive"),
        (
            ["--objective", "whole-clip", "--resampled-share", "1"],
            "--resampled-share belongs to --objective progressive",
        ),
        (["--data", "LATENTS", "--size", "64x96"], "--size has no meaning for clips that are pre-computed"),
        (["--data", "LATENTS", "--clips", "3"], "--clips has no meaning for clips that are pre-computed"),
        (["--data", "LATENTS", "--vae", "there"], "--vae has no meaning for clips that are pre-computed"),
        (["--what", "vae", "--part", "temporal", "--data", "world", "--frames", "17"], "say where it is with --from"),
        (["--what", "text-encoder", "--data", "world", "--vocabulary", "10"], "--vocabulary must lie in 261"),
        (["--what", "text-encoder", "--data", "world", "--vocabulary", "-5"], "--vocabulary must lie in 261"),
        (["--seed", "-1", "--data", "world"], "--seed must be at least 0"),
        (["--epsilon", "0"], "epsilon must be above 0"),
        (
            ["--noise-pattern", "linear", "--shift-scale", "2"],
            "--shift-scale has no meaning for --noise-pattern linear",
        ),
        (["--variance-scale", "3"], "--variance-scale has no meaning for --noise-pattern linear-shift"),
        (["--no-variable-length", "--partial-share", "0.9"], "--partial-share has no meaning with --no-variable"),
        (["--no-overlap", "--text-only-share", "0.5"], "--text-only-share has no meaning with --no-overlap"),
        (["--text-only-share", "1", "--partial-place", "anywhere"], "--partial-place has no meaning with --text-only"),
    ],
)
def test_options_that_would_change_nothing_or_fit_nothing_are_refused(
    tmp_path: Path, typed: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "settings.json").write_text("{}")  # makes it a folder of latents
    typed = [str(tmp_path) if word == "LATENTS" else word for word in typed]
    command = ["train", "--like", "tiny", *typed, "--cpu", "--steps", "1", "--out", str(tmp_path / "run")]
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("latents", "typed", "said"),
    [
        (5, [], "need clips of at least 10 latents, and world gives some of 5"),
        (34, ["--no-variable-length"], "at least 35 latents, and world gives some of 34"),
        (9, ["--text-only-share", "0.5"], "at least 10 latents"),
    ],
)
def test_clips_too_short_for_a_window_end_no_run_in_its_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, latents: int, typed: list[str], said: str, capsys
) -> None:
    class Mixed(MemorySource):
        def extents(self) -> list[Extent]:
            return [*MemorySource(50).extents(), *super().extents()]

    monkeypatch.setattr(stdit_options, "open_clips", lambda options: Mixed(latents))
    run = ["train", "--like", "tiny", "--data", "world", "--steps", "1", "--out", str(tmp_path / "run"), "--dry-run"]
    assert cli.main([*run, *typed]) == 2
    assert said in capsys.readouterr().err
    for also in (["--objective", "whole-clip"], ["--chunk", "2", "--text-only-share", "1"]):
        assert cli.main([*run, *also]) == 0


@pytest.mark.parametrize(
    ("latents", "typed", "said"),
    [
        (34, [], ["full window of 35 latents is never trained: the longest clips have 34"]),
        (35, [], []),
        (40, ["--resampled-share", "1"], []),
        (39, ["--resampled-share", "1"], ["to shorter windows alone: a full one needs clips of 40 latents"]),
        (39, ["--resampled-share", "1", "--no-variable-length"], ["to no window: a full one needs clips of 40"]),
        (39, ["--resampled-share", "1", "--partial-share", "0"], ["to no window"]),
        (10, ["--resampled-share", "1"], ["full window of 35 latents", "to no window"]),
        (40, ["--resampled-share", "1", "--text-only-share", "1"], ["--text-only-share 1 none has a clean chunk"]),
        (30, ["--text-only-share", "1"], []),
        (102 // 17 * 5, ["--window-chunks", "3", "--denoise-steps", "15", "--resampled-share", "0.5"], []),
    ],
)
def test_windows_that_no_clip_is_long_enough_for_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog, latents: int, typed: list[str], said: list[str]
) -> None:
    monkeypatch.setattr(stdit_options, "open_clips", lambda options: MemorySource(latents))
    run = ["train", "--like", "tiny", "--data", "world", "--steps", "1", "--out", str(tmp_path / "run"), "--dry-run"]
    assert cli.main([*run, *typed]) == 0
    assert len(caplog.messages) == len(said)
    assert all(words in message for words, message in zip(said, caplog.messages, strict=True))


@pytest.mark.parametrize("latents", [4, 6, 8, 12, 14, 16])
@pytest.mark.parametrize(
    "typed", [[], ["--partial-share", "0"], ["--window-chunks", "1"], ["--text-only-share", "0.9"]]
)
def test_what_is_told_of_windows_is_what_chance_gives(latents: int, typed: list[str]) -> None:
    run = ["train", "--steps", "1", "--out", "run", "--chunk", "2", "--resampled-share", "1"]
    read = parser().parse_args([*run, *typed])
    windows = stdit_options.windows_from(read)
    told = "; ".join(stdit_options._untrained(read, windows, latents))
    plans = [windows.plan(latents, torch.Generator().manual_seed(seed)) for seed in range(300)]
    made_anew = {plan.num_chunks for plan in plans if plan.resampled}
    full = any(plan.clean and plan.num_chunks == read.window_chunks for plan in plans)
    assert ("never trained" in told) == (not full)
    assert ("to no window" in told) == (not made_anew)
    assert ("shorter windows alone" in told) == (bool(made_anew) and read.window_chunks not in made_anew)


def gib(said: str, row: str) -> float:
    (line,) = (line for line in said.splitlines() if row in line)
    return float(line.split()[-2])


def test_a_lora_of_the_published_network_is_estimated_to_fit_24_gib(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--like", "xl", "--lora", "16", "--checkpointing", "--precision", "bf16", "--dry-run"]
    assert cli.main([*command, "--steps", "1", "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert 2 * 1.12e9 / 2**30 < gib(said, "  weights") < gib(said, "in all") < 24


@pytest.mark.parametrize(
    ("typed", "latents"), [([], 35), (["--window-chunks", "3"], 20), (["--objective", "whole-clip"], 30)]
)
def test_an_estimate_without_clips_is_that_of_the_whole_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: list[str], latents: int, capsys
) -> None:
    clips = MemorySource(latents, size=(240, 426), batch_size=1)
    monkeypatch.setattr(stdit_options, "open_clips", lambda options: clips)
    command = ["train", "--like", "tiny", *typed, "--dry-run", "--steps", "1", "--out", str(tmp_path / "run")]
    found = []
    for data in ([], ["--data", "world"]):
        assert cli.main([*command, *data]) == 0
        found.append(capsys.readouterr().out)
    assert found[0] == found[1]


def test_a_lora_keeps_its_base_in_the_precision_that_accelerate_was_launched_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["train", "--like", "small", "--lora", "4", "--dry-run", "--steps", "1", "--out", str(tmp_path / "run")]
    found = []
    for precision in ("no", "bf16"):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
        assert cli.main(command) == 0
        found.append(gib(capsys.readouterr().out, "  weights"))
    assert found[1] < 0.7 * found[0]


def test_a_dry_run_of_any_network_checks_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--like", "tiny", "--data", "world", "--steps", "1", "--out", str(tmp_path / "run"), "--dry-run"]
    image = ["train", "--what", "vae", "--part", "spatial", "--frames", "1", *data]
    steps = []
    for size in ("32x48", "64x96"):
        assert cli.main([*image, "--size", size]) == 0
        said = capsys.readouterr().out
        assert "fit to train with" in said
        steps.append(gib(said, "activations"))
    assert steps[1] > 2 * steps[0]
    assert cli.main(["train", "--what", "text-encoder", *data, "--clips", "20"]) == 0
    assert "fit to train with" in capsys.readouterr().out
    assert cli.main(["train", "--what", "vae", *data]) == 2
    assert "got 119" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_dry_run_says_what_memory_is_needed_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", *SMALL, "--steps", "5", "--out", str(tmp_path / "run"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "optimizer" in said and "in all" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ([], "say where training starts"),
        (["--like", "tiny", "--lora", "4"], "say which with --from"),
        (["--like", "tiny", "--lora-alpha", "4"], "--lora-alpha belongs to a LoRA"),
        (["--like", "tiny", "--text-dropout", "2"], "--text-dropout must lie in 0..1"),
        (["--like", "tiny", "--denoise-steps", "31"], "must be a multiple"),
        (["--like", "tiny", "--batch-size", "0"], "--batch-size must be at least 1"),
        (["--config", "nowhere.json"], "nowhere.json is not readable"),
        (["--from", "nowhere"], "nowhere"),
        (["--like", "tiny", "--ema", "1"], "ema must lie in 0..1"),
    ],
)
def test_what_makes_no_run_is_said_in_a_sentence(
    tmp_path: Path, typed: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", *typed, *CPU, "--steps", "1", "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error


def test_samples_that_could_not_be_made_are_refused_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = PRESETS["tiny"].vae
    wide = replace(tiny, temporal=replace(tiny.temporal, embed_dim=5), scale=(1.0,) * 5, shift=(0.0,) * 5)
    vae = VideoVAE(wide)
    initialize_weights(vae, torch.Generator().manual_seed(0))
    save_vae(vae, tmp_path)
    command = ["train", *SMALL, "--steps", "1", "--out", str(tmp_path / "run"), "--dry-run"]
    for typed, said in (
        (["--sample-vae", str(tmp_path)], "latents with 4 channels, and the VAE in"),
        (["--sample-chunks", "0"], "--sample-chunks must be at least 1: got 0"),
        (["--sample-guidance", "nan"], "--sample-guidance must be a finite number: got nan"),
    ):
        assert cli.main([*command, *typed]) == 2
        assert said in capsys.readouterr().err
        assert cli.main([*command, *typed, "--sample-every", "0"]) == 0


def test_a_short_run_can_be_made_longer_by_its_steps_alone(tmp_path: Path) -> None:
    command = ["train", *SMALL, "--cpu", "--workers", "0", "--quiet", "--sample-every", "0", "--out", str(tmp_path)]
    assert cli.main([*command, "--steps", "10"]) == 0
    assert cli.main([*command, "--steps", "20"]) == 0
    settings = json.loads((tmp_path / "step-000020" / "progress.json").read_text())["settings"]
    assert settings["warmup"] == 1


def test_the_folder_of_a_run_is_not_taken_for_its_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", *CPU, "--sample-every", "0", "--window-chunks", "2", "--chunk", "2", "--denoise-steps", "4"]
    run = tmp_path / "run"
    assert cli.main([*command, "--like", "tiny", "--steps", "1", "--out", str(run)]) == 0
    for start in (run, run / "step-000001"):
        assert cli.main([*command, "--from", str(start), "--steps", "1", "--out", str(tmp_path / "second")]) == 2
        assert f"the network to go on from is in {run / 'step-000001' / 'model'}" in capsys.readouterr().err


def test_progress_and_memory_are_told_before_and_while_a_run_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", *SMALL, *(word for word in CPU if word != "--quiet"), "--sample-every", "0"]
    assert cli.main([*command, "--steps", "2", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().err
    assert said.index("memory of one process:") < said.index("in all") < said.index("training")
    assert "2/2" in said and "left" in said and "loss" in said


def test_a_run_that_would_change_its_settings_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", *SMALL, *CPU, "--sample-every", "0", "--out", str(tmp_path)]
    assert cli.main([*command, "--steps", "1"]) == 0
    assert cli.main([*command, "--steps", "2", "--shift-scale", "0.5"]) == 2
    assert "shift_scale: 0.4 there, 0.5 now" in capsys.readouterr().err
    settings = json.loads((tmp_path / "step-000001" / "progress.json").read_text())["settings"]
    assert settings["what"] == "stdit" and settings["data"] == {"latents": 10}
