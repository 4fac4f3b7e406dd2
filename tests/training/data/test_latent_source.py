"""Batches of pre-computed clips."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from pavdm.errors import InputError
from pavdm.training.data.coding import Coding
from pavdm.training.data.latent_source import LatentSource
from pavdm.training.data.preprocess import Job, preprocess
from pavdm.training.data.sources import Data, clip_source
from pavdm.training.data.world_source import WorldClips
from pavdm.training.task import Share
from pavdm.training.world_change import render_changing


class Named:
    """Latents that hold the number of the clip's noise, embeddings as long as the text has words."""

    def latents(self, pixels, noise_name):
        return torch.full((2, pixels.shape[2] // 17 * 5, 2, 3), float(noise_name.split("/")[1]))

    def embedding(self, text):
        return torch.full((len(text.split()), 3), 0.25)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("latents")
    preprocess(WorldClips(23, (17, 34), (16, 24)), Job(folder, Coding("sample"), "fp16", 5), Named)
    return folder


def numbers(batch) -> list[int]:
    return batch.latents[:, 0, 0, 0, 0].int().tolist()


def test_a_batch_holds_the_clips_whose_numbers_it_drew(folder):
    source = LatentSource(folder, 2, seed=0)
    batch = source.clips(Share())[4]
    assert batch.latents.dtype == torch.float32 and batch.latents.shape[:2] == (2, 2)
    assert (batch.size, batch.fps) == ((16, 24), 24.0)
    for number, embedding in zip(numbers(batch), batch.embeddings, strict=True):
        clip = source.shards.clips[number][1]
        assert batch.latents.shape[2] == clip.frames // 17 * 5
        assert embedding.shape == (len(clip.captions[0][2].split()), 3) and embedding.dtype == torch.float32
    assert (len(source.shards), source.channels, source.text_width) == (23, 2, 3)


def test_a_batch_is_decided_by_seed_number_and_process_alone(folder):
    first = LatentSource(folder, 2, seed=3).clips(Share(1, 2))
    expected = [numbers(first[index]) for index in range(12)]
    again = LatentSource(folder, 2, seed=3).clips(Share(1, 2))
    assert [numbers(again[index]) for index in reversed(range(12))] == expected[::-1]
    assert [numbers(LatentSource(folder, 2, seed=3).clips(Share(0, 2))[i]) for i in range(12)] != expected
    assert [numbers(LatentSource(folder, 2, seed=4).clips(Share(1, 2))[i]) for i in range(12)] != expected


def test_in_a_step_all_processes_have_one_length_and_no_clip_comes_twice(folder):
    ranks = [LatentSource(folder, 2, seed=0).clips(Share(rank, 2)) for rank in range(2)]
    epoch = []
    for index in range(4):
        batches = [rank[index] for rank in ranks]
        assert len({batch.latents.shape for batch in batches}) == 1
        epoch += [number for batch in batches for number in numbers(batch)]
    assert len(set(epoch)) == 16


def test_where_a_caption_changes_the_frames_of_its_piece_read_the_new_one(tmp_path):
    world = WorldClips(12, (51,), (16, 24), changing=0.5)
    preprocess(world, Job(tmp_path, Coding("sample"), "fp16", 5), Named)
    batch = LatentSource(tmp_path, 12, seed=0).clips(Share())[0]
    changing = 0
    for item, number in enumerate(numbers(batch)):
        clip = render_changing(number, 51, (16, 24), changing=0.5)
        words = [len(batch.embeddings[text]) for text in batch.texts[item].tolist()]
        expected = [len(next(c for f, c in reversed(clip.captions) if f <= 17 * (t // 5)).split()) for t in range(15)]
        assert words == expected
        assert batch.texts[item, 0] == item
        later = [batch.embeddings[text] for text in set(batch.texts[item].tolist()) - {item}]
        assert len(later) == len(clip.captions) - 1
        changing += len(later)
    assert 2 < changing < 10 and len(batch.embeddings) == 12 + changing
    frames = world[next(n for n in range(12) if world[n].changes)].frames
    assert frames.shape == (51, 16, 24, 3)
    plain = LatentSource(tmp_path, 1, seed=0).clips(Share())
    assert any(plain[index].texts is None for index in range(12))


def test_worker_processes_give_the_same_batches(folder):
    data = LatentSource(folder, 2, seed=0).clips(Share())
    data[0]  # the files are open in this process
    alone = [numbers(data[index]) for index in range(6)]
    loader = DataLoader(data, batch_size=None, sampler=range(6), num_workers=2)
    assert [numbers(batch) for batch in loader] == alone


def test_the_files_are_mapped_not_copied(folder):
    shards = LatentSource(folder, 2, seed=0).shards
    first, second = shards.latents(0), shards.latents(1)
    assert first.untyped_storage().data_ptr() == first.data_ptr() or first.storage_offset() > 0
    assert shards.latents(0).data_ptr() == first.data_ptr() != second.data_ptr()


def test_what_data_names_decides_the_kind(folder, tmp_path):
    def load():
        raise AssertionError("latents need no networks")

    assert isinstance(clip_source(Data(str(folder)), 2, 0, Coding(), load), LatentSource)
    unfinished = tmp_path / "unfinished"
    shutil.copytree(folder, unfinished)
    (unfinished / "index.json").unlink()
    with pytest.raises(InputError, match="no finished set"):
        clip_source(Data(str(unfinished)), 2, 0, Coding(), load)


def test_a_missing_shard_and_too_few_clips_are_told(folder, tmp_path, caplog):
    with pytest.raises(InputError, match="23 clips fill no batch"):
        LatentSource(folder, 30, seed=0).clips(Share())
    with pytest.raises(InputError, match="23 clips fill no batch"):
        LatentSource(folder, 30, seed=0).check(Share())
    LatentSource(folder, 12, seed=0).check(Share())
    assert "are never used" in caplog.text
    copied = tmp_path / "copied"
    shutil.copytree(folder, copied)
    (copied / "shard-00002.safetensors").unlink()
    with pytest.raises(InputError, match=r"1 shards are missing, such as shard-00002"):
        LatentSource(copied, 2, seed=0)
