"""Clips encoded once: shared among processes, killed, resumed, and read back by memory mapping."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pavdm.cli import main
from pavdm.errors import InputError
from pavdm.files import temporary_beside
from pavdm.models.checkpoint import load_vae
from pavdm.models.text_encoder import TextEncoder
from pavdm.training.data import coding
from pavdm.training.data.coding import Coding
from pavdm.training.data.dataset import Bucket
from pavdm.training.data.latent_shards import ShardFolder, shard_name
from pavdm.training.data.pixel_source import FileClips, FileSource
from pavdm.training.data.preprocess import Job, Stopped, preprocess
from pavdm.training.data.world_source import WorldClips, piece_lengths
from pavdm.training.world import HELD_OUT, render

SMALL = (16, 24)
CLIPS = WorldClips(7, (17, 34), SMALL)


class Means:
    """Latents that are the pixels' means, embeddings that are the text's length: numbers that can be checked."""

    def latents(self, pixels, noise_name):
        return pixels.mean(dim=(1, 3, 4), keepdim=True)[0].expand(2, -1, 1, 1) + (noise_name is not None)

    def embedding(self, text):
        return torch.full((1, 3), float(len(text)))


def means() -> Means:
    return Means()


def run(folder: Path, clips=CLIPS, **options):
    return preprocess(clips, Job(folder, Coding("mode"), "fp32", shard_clips=2), means, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def whole(tmp_path) -> Path:
    assert run(tmp_path / "whole").complete
    return tmp_path / "whole"


def test_every_clip_is_there_with_its_own_numbers(whole):
    shards = ShardFolder(whole)
    assert [clip.name for _, clip in shards.clips] == [f"world/{seed}" for seed in range(7)]
    assert {clip.frames for _, clip in shards.clips} == {17, 34}
    for number, (_, clip) in enumerate(shards.clips):
        frames, caption, _ = render(number, clip.frames, SMALL)
        expected = frames.astype(np.float64).mean(axis=(1, 2, 3)) / 127.5 - 1
        np.testing.assert_allclose(shards.latents(number)[1, :, 0, 0].numpy(), expected, atol=1e-5)
        assert [(first, text) for first, _, text in clip.captions] == [(0, caption.lower())]
        assert shards.embeddings(number)[0][0, 0] == len(caption)
        assert clip.latents == tuple(shards.latents(number).shape)


@pytest.mark.parametrize("stop_after", [0, 1, 2, 3, 6])
def test_a_run_that_was_stopped_anywhere_goes_on_to_the_same_bytes(whole, tmp_path, stop_after):
    seen = []
    with pytest.raises(Stopped):
        run(tmp_path / "again", progress=seen.append, should_stop=lambda: len(seen) >= stop_after)
    there = {name: (tmp_path / "again" / name).stat() for name in contents(tmp_path / "again")}
    assert len([name for name in there if name.startswith("shard")]) == stop_after // 2
    outcome = run(tmp_path / "again")
    assert (outcome.found, outcome.encoded) == (stop_after // 2 * 2, 7 - stop_after // 2 * 2)
    assert contents(tmp_path / "again") == contents(whole)
    for name, before in there.items():
        after = (tmp_path / "again" / name).stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns), "a finished file was rewritten"


def test_half_a_shard_of_a_killed_process_goes_when_the_folder_is_complete_and_not_before(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    left = temporary_beside(out / shard_name(1))
    left.write_bytes(b"half a shard, perhaps of a process that is still at it")
    assert not run(out, rank=0, world_size=2).complete
    assert left.exists()
    assert run(out, rank=1, world_size=2).complete
    assert not list(out.glob(".*"))


def test_a_finished_folder_needs_no_networks(whole):
    def load():
        raise AssertionError("nothing is left to encode")

    job = Job(whole, Coding("mode"), "fp32", shard_clips=2)
    assert preprocess(CLIPS, job, load).found == 7


def test_two_processes_do_disjoint_work_that_is_everything_together(whole, tmp_path):
    both = tmp_path / "both"
    first = run(both, rank=0, world_size=2)
    of_the_first = {name for name in contents(both) if name.startswith("shard")}
    assert not first.complete and "index.json" not in contents(both)
    with pytest.raises(InputError, match=r"index\.json is missing.*run the same command again"):
        ShardFolder(both)
    second = run(both, rank=1, world_size=2)
    assert second.complete and first.encoded + second.encoded == 7
    assert of_the_first == {"shard-00000.safetensors", "shard-00002.safetensors"}
    assert contents(both) == contents(whole)


def test_reading_workers_change_nothing(whole, tmp_path):
    run(tmp_path / "workers", workers=2)
    assert contents(tmp_path / "workers") == contents(whole)


@pytest.mark.parametrize(
    ("clips", "coding", "told"),
    [
        (replace(CLIPS, latest_start=3.0), Coding("mode"), "source"),
        (CLIPS, Coding("sample"), "posterior: 'mode' there, 'sample' now"),
        (CLIPS, Coding("mode", identity={"vae": "another"}), "vae: None there, 'another' now"),
    ],
)
def test_a_folder_of_other_settings_is_refused_and_kept(whole, clips, coding, told):
    before = contents(whole)
    with pytest.raises(InputError, match="begun with other settings") as error:
        preprocess(clips, Job(whole, coding, "fp32", shard_clips=2), means)
    assert told in str(error.value)
    assert contents(whole) == before


def test_a_damaged_shard_is_named(whole):
    shard = whole / "shard-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-50])
    with pytest.raises(InputError, match=r"shard-00001\.safetensors is cut short"):
        run(whole)
    shard.unlink()
    assert run(whole).encoded == 2


def test_a_caption_that_clips_share_is_stored_once(tmp_path):
    class Same(WorldClips):
        def __getitem__(self, number):
            return replace(super().__getitem__(number), text="a red heart")

    run(tmp_path / "same", Same(4, (17,), SMALL))
    for number in range(2):
        keys = load_file(tmp_path / "same" / f"shard-{number:05d}.safetensors").keys()
        assert sorted(keys) == ["latents.0", "latents.1", "text.0"]


def test_numbers_that_the_stored_format_cannot_hold_are_refused(tmp_path):
    class Large(Means):
        def latents(self, pixels, noise_name):
            return super().latents(pixels, noise_name) + 1e6

    with pytest.raises(InputError, match=r"clip 0 \(world/0\) has latents that are no numbers in fp16"):
        preprocess(CLIPS, Job(tmp_path / "out", store="fp16"), Large)


def numbered(count: int, size: tuple[int, int] = (32, 48)) -> list[np.ndarray]:
    """Frames whose grey says their number."""
    return [np.full((*size, 3), 4 * i, np.uint8) for i in range(count)]


def test_videos_are_cut_into_clips_and_broken_ones_are_listed(make_clip, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for name, length in [("a", 40), ("b", 17), ("late", 50), ("short", 9)]:
        make_clip(f"clips/{name}.mkv", numbered(length))
    (folder / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    for name in ("a", "b", "late", "short", "noise"):
        (folder / f"{name}.txt").write_text(f"clip {name}")
    (folder / "silent.mkv").write_bytes(b"no caption")
    source = FileSource(folder, [Bucket("32x48", 17)], fps=25)
    late = folder / "late.mkv"
    late.write_bytes(late.read_bytes()[: late.stat().st_size // 2])  # after it was looked at: fails while encoding
    outcome = preprocess(FileClips(source), Job(tmp_path / "out", Coding("mode"), "fp32", 3), means)
    assert (outcome.encoded, outcome.complete) == (4, True)
    shards = ShardFolder(tmp_path / "out")
    names = [clip.name for _, clip in shards.clips]
    assert names == ["a.mkv from frame 0", "a.mkv from frame 17", "b.mkv", "late.mkv from frame 0"]
    second = shards.latents(1)[0, :, 0, 0]
    torch.testing.assert_close((second + 1) * 127.5, torch.arange(17, 34) * 4.0, atol=1e-2, rtol=0)
    with (tmp_path / "out" / "skipped.csv").open() as file:
        listed = {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)}
    assert set(listed) == {"silent.mkv", "noise.mp4", "short.mkv", "late.mkv from frame 17"}
    assert "no caption" in listed["silent.mkv"] and "fills no bucket" in listed["short.mkv"]
    assert (outcome.skipped, outcome.unusable) == (1, 3)


def test_the_two_kinds_of_seeds_are_kept_apart():
    with pytest.raises(InputError, match="of both kinds"):
        WorldClips(10, first_seed=HELD_OUT - 5)
    assert WorldClips(10, first_seed=HELD_OUT).name(0) == "world/1000000000"
    assert piece_lengths(119, 187) == (119, 136, 153, 170, 187)
    assert piece_lengths(20, 20) == (20,)
    with pytest.raises(InputError, match="no multiple of 17"):
        piece_lengths(18, 33)


def command(models: Path, out: Path, *options: object) -> list[str]:
    return [
        *("preprocess", "world", "--clips", "6", "--frames", "17-34", "--size", "16x24", "--models", str(models)),
        *("--out", str(out), "--shard-clips", "2", "--quiet", *map(str, options)),
    ]


def test_a_killed_command_goes_on_to_the_same_bytes(models, tmp_path, capsys):
    assert main(command(models, tmp_path / "whole")) == 0
    assert "6 clips encoded, 0 skipped" in capsys.readouterr().out
    killed = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-m", "pavdm", *command(models, killed)])
    try:
        deadline = time.monotonic() + 240
        while not (killed / "shard-00000.safetensors").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert main(command(models, killed)) == 0
    whole = contents(tmp_path / "whole")
    assert contents(killed) == whole
    assert main(command(models, killed, "--posterior", "mode")) == 2
    assert "begun with other settings" in capsys.readouterr().err

    stored = ShardFolder(tmp_path / "whole")
    number = 3
    clip = stored.clips[number][1]
    frames, caption, _ = render(number, clip.frames, SMALL)
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        mode = load_vae(models / "vae").encode(pixels)[0]
    distance = (stored.latents(number).float() - mode).abs().mean()
    assert 0 < distance < 3 * mode.abs().mean(), "a draw from the posterior lies about its mode, and is not the mode"
    encoder = TextEncoder.load(models / "text_encoder", "cpu", torch.float32)
    torch.testing.assert_close(
        stored.embeddings(number)[0].float(), encoder.encode([caption.lower()])[0], atol=2e-3, rtol=2e-3
    )


def test_what_came_to_nothing_binds_nobody(models, tmp_path, capsys):
    assert main(command(models, tmp_path / "out", "--vae", models / "stdit")) == 2
    assert main(command(models, tmp_path / "out")) == 0
    assert "6 clips encoded" in capsys.readouterr().out


def test_what_to_do_without_enough_memory_can_be_done(models, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise MemoryError("no more")

    monkeypatch.setattr(coding.Networks, "latents", full)
    assert main(command(models, tmp_path / "out")) == 2
    error = capsys.readouterr().err
    assert "--tile 32" in error and "--state" not in error and "--window-chunks" not in error


def test_the_environment_of_a_launcher_says_which_part_is_done(models, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert main(command(models, tmp_path / "out")) == 0
    assert sorted(contents(tmp_path / "out")) == ["settings.json", "shard-00001.safetensors"]
    assert "still missing" in capsys.readouterr().out
    recorded = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert recorded["source"]["clips"] == 6 and "RANK" not in recorded
    assert main(command(models, tmp_path / "out", "--rank", 1)) == 2
    assert main(command(models, tmp_path / "out", "--rank", 3, "--world-size", 3)) == 2


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_does_not_grow_with_the_folder(tmp_path):
    """A process that reads 60 MB of clips, twice, holds no copy of them: mapped pages are the system's to drop."""

    class Noise(Means):
        def latents(self, pixels, noise_name):
            return torch.full((16, 35, 14, 20), 0.5)

    folder = tmp_path / "large"
    preprocess(WorldClips(96, (1,), SMALL), Job(folder, Coding("mode"), "fp32", 24), Noise)
    size = sum(path.stat().st_size for path in folder.glob("shard-*"))
    assert size > 55e6
    code = (
        "import sys; from pathlib import Path\n"
        "from pavdm.training.data.latent_source import LatentSource; from pavdm.training.task import Share\n"
        "def held(): return int(next(l for l in open('/proc/self/status') if l.startswith('RssAnon')).split()[1])\n"
        "data = LatentSource(Path(sys.argv[1]), 1, 0).clips(Share()); data[0]; before = held()\n"
        "total = sum(float(data[i].latents.sum()) for i in range(192))\n"
        "print(before, held(), total)"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, folder], capture_output=True, text=True, check=True, env=environment
    )
    before, after, total = (float(word) for word in done.stdout.split())
    assert total == 2 * 96 * 16 * 35 * 14 * 20 * 0.5
    assert (after - before) * 1024 < 0.3 * size
