"""Clips from files to batches."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from pavdm.errors import InputError
from pavdm.training.data.clip_list import CaptionedClip
from pavdm.training.data.dataset import Bucket, ClipDataset, Entry, collate
from pavdm.training.task import Share


def numbered(count: int, size: tuple[int, int] = (32, 48)) -> list[np.ndarray]:
    """Frames whose grey says their number."""
    return [np.full((*size, 3), 4 * i, np.uint8) for i in range(count)]


@pytest.fixture
def clips(make_clip, tmp_path) -> list[CaptionedClip]:
    """Landscape and portrait, long and short, and three that are no good."""
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    paths = [
        make_clip("long.mkv", numbered(50)),
        make_clip("short.mkv", numbered(20)),
        make_clip("portrait.mkv", numbered(50, (48, 32))),
        make_clip("tiny.mkv", numbered(50, (16, 16))),
        make_clip("slow.mkv", numbered(10), fps=5),
        tmp_path / "noise.mp4",
        tmp_path / "missing.mp4",
    ]
    return [CaptionedClip(path, path.stem) for path in paths]


def test_each_clip_goes_to_the_largest_bucket_it_fills_and_the_rest_is_listed(clips):
    buckets = [Bucket("16x32", 17), Bucket("32x48", 17, 2), Bucket("48x32", 34), Bucket("32x48", 34, 3)]
    dataset, skipped = ClipDataset.survey(clips, buckets, fps=25)
    placed = {entry.clip.text: (entry.size, entry.num_frames, entry.available) for entry in dataset.entries}
    assert placed["long"] == ((32, 48), 34, 50)
    assert placed["portrait"] == ((48, 32), 34, 50)
    assert placed["short"] == ((32, 48), 17, 20)
    assert placed["slow"] == ((32, 48), 34, 50)  # 2 s at 5 fps are 50 frames at 25
    reasons = {item.path.stem: item.reason for item in skipped}
    assert set(reasons) == {"tiny", "noise", "missing"}
    assert "it fills no bucket: 16x16 pixels, 50 frames at 25 fps" in reasons["tiny"]
    assert "no such file" in reasons["missing"]


def test_named_resolutions_take_the_nearest_of_their_aspects():
    assert Bucket("240p", 51).size(9 / 16) == (240, 426)
    assert Bucket("240p", 51).size(16 / 9) == (426, 240)
    assert Bucket("144p", 51).size(0.98) == (192, 192)


def test_a_sample_is_consecutive_frames_from_a_moment_that_its_seed_chose(clips):
    dataset, _ = ClipDataset.survey(clips[:1], [Bucket("32x48", 17)], fps=25)
    starts = Counter()
    for seed in range(40):
        frames = dataset[0, seed].frames
        numbers = frames[:, 16, 24, 0] / 4
        assert frames.shape == (17, 32, 48, 3)
        assert np.array_equal(numbers, np.arange(numbers[0], numbers[0] + 17))
        starts[int(numbers[0])] += 1
    assert min(starts) < 6 and max(starts) > 27 and max(starts) <= 33 and len(starts) > 15
    assert np.array_equal(dataset[0, 3].frames, dataset[0, 3].frames)


def test_a_clip_that_fails_in_the_middle_of_a_run_is_replaced_and_listed(clips):
    dataset, _ = ClipDataset.survey([clips[0], clips[4]], [Bucket("32x48", 17)], fps=25)
    clips[0].path.write_bytes(clips[0].path.read_bytes()[:1500])
    sample = dataset[0, 0]
    assert sample.text == "slow"
    assert [item.path for item in sample.skipped] == [clips[0].path]
    assert collate([sample, dataset[1, 0]]).skipped == sample.skipped
    clips[4].path.unlink()
    with pytest.raises(InputError, match="not one of 2 clips decodes"):
        dataset[0, 0]


def test_batches_of_two_workers_are_those_of_none(clips):
    dataset, _ = ClipDataset.survey([clips[0], clips[2], clips[4]] * 2, [Bucket("32x48", 17, 2)], fps=25)
    order = dataset.batches(0, seed=0)
    runs = [
        list(DataLoader(dataset, batch_sampler=order, collate_fn=collate, num_workers=workers)) for workers in (0, 2)
    ]
    assert len(runs[0]) == 3
    for alone, together in zip(*runs, strict=True):
        assert alone.texts == together.texts and torch.equal(alone.pixels, together.pixels)
    batch = runs[0][0]
    assert batch.pixels.shape == (2, 3, 17, 32, 48) and batch.pixels.dtype == torch.float32
    first = dataset[order[0][0]].frames
    torch.testing.assert_close((batch.pixels[0, 1, 5] + 1) * 127.5, torch.from_numpy(first[5, :, :, 1]).float())


def made_up(counts: list[int]) -> ClipDataset:
    """Clips that are never decoded: counts[i] of length i + 1 with batch size i + 1."""
    clip = CaptionedClip(Path("x"), "x")
    return ClipDataset(
        [Entry(clip, (32, 32), i + 1, 99, i + 1) for i, count in enumerate(counts) for _ in range(count)], 24.0
    )


@given(st.lists(st.integers(0, 20), min_size=1, max_size=4), st.integers(1, 3), st.integers(0, 9))
def test_processes_share_every_step_bucket_by_bucket_and_no_clip_comes_twice(counts, world_size, epoch):
    dataset = made_up(counts)
    if not any(count >= (i + 1) * world_size for i, count in enumerate(counts)):
        with pytest.raises(InputError, match="fill no batch"):
            dataset.batches(epoch, seed=1, share=Share(0, world_size))
        return
    ranks = [dataset.batches(epoch, seed=1, share=Share(rank, world_size)) for rank in range(world_size)]
    for step in zip(*ranks, strict=True):
        keys = {dataset.entries[index].key for batch in step for index, _ in batch}
        assert len(keys) == 1
        assert {len(batch) for batch in step} == {keys.pop()[2]}
    used = [index for batches in ranks for batch in batches for index, _ in batch]
    assert len(used) == len(set(used))
    assert len(used) == sum(count // ((i + 1) * world_size) * (i + 1) * world_size for i, count in enumerate(counts))


def test_an_epoch_is_repeatable_and_the_next_one_is_another():
    dataset = made_up([30, 20])
    state = torch.get_rng_state()
    first = dataset.batches(0, seed=5)
    assert dataset.batches(0, seed=5) == first
    assert torch.equal(torch.get_rng_state(), state)
    for other in (dataset.batches(1, seed=5), dataset.batches(0, seed=6)):
        assert other != first
        assert {start for batch in other for _, start in batch} != {start for batch in first for _, start in batch}


def test_clips_that_are_all_unfit_and_buckets_without_a_meaning_are_refused(clips):
    with pytest.raises(InputError, match="none of 1 clips can be trained on; the first: .*missing"):
        ClipDataset.survey(clips[-1:], [Bucket("32x48", 17)])
    for resolution, num_frames, batch_size in [("32", 17, 1), ("32x48", 0, 1), ("32x48", 17, 0)]:
        with pytest.raises(InputError):
            Bucket(resolution, num_frames, batch_size)
