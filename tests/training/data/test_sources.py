"""Sources of clips in pixels, and their encoding while training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pavdm.data_commands import data_from
from pavdm.errors import InputError
from pavdm.models.checkpoint import load_vae
from pavdm.models.text_encoder import TextEncoder
from pavdm.options import parser
from pavdm.sampling.progressive import posterior_noise
from pavdm.training.data.coding import Coding, EncodedSource, Networks
from pavdm.training.data.dataset import Bucket
from pavdm.training.data.pixel_source import FileSource, WorldSource
from pavdm.training.data.sources import Data, clip_source, parse_bucket, pixel_source, raw_clips
from pavdm.training.data.world_source import WorldClips
from pavdm.training.task import Share
from pavdm.training.world import HELD_OUT, render
from pavdm.training.world_change import render_changing

SIZE = (16, 24)


def halves(top, bottom, size=(32, 48)) -> np.ndarray:
    picture = np.empty((*size, 3), np.uint8)
    picture[: size[0] // 2], picture[size[0] // 2 :] = top, bottom
    return picture


@pytest.fixture
def folder(make_clip, tmp_path):
    """Two videos, four pictures (one lies on its side, one is half transparent), and a broken one of each."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for i in range(2):
        make_clip(f"clips/video{i}.mkv", [np.full((32, 48, 3), 4 * k, np.uint8) for k in range(40)])
    red_over_blue = halves((200, 40, 40), (40, 40, 200))
    Image.fromarray(red_over_blue).save(folder / "frame%03d.png")  # FFmpeg would take it for a pattern
    Image.fromarray(red_over_blue).resize((96, 64)).save(folder / "large.webp", lossless=True)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned clockwise
    Image.fromarray(np.rot90(red_over_blue).copy()).save(folder / "turned.jpg", exif=turned, quality=98)
    alpha = np.full((32, 48, 1), 128, np.uint8)
    Image.fromarray(np.concatenate([red_over_blue, alpha], axis=2)).save(folder / "glass.png")
    (folder / "torn.png").write_bytes((folder / "glass.png").read_bytes()[:60])
    (folder / "torn.mkv").write_bytes(b"\x1aE\xdf\xa3 and nothing more")
    for path in list(folder.iterdir()):
        path.with_suffix(".txt").write_text(path.stem)
    return folder


def test_pictures_are_clips_of_one_frame_beside_videos_of_many(folder):
    source = FileSource(folder, [Bucket("32x48", 1, 4), Bucket("32x48", 17, 2)], fps=25)
    assert {item.path.name for item in source.skipped} == {"torn.png", "torn.mkv"}
    batches = {batch.pixels.shape[2]: batch for batch in (source.pixels(Share())[i] for i in range(2))}
    assert set(batches) == {1, 17}
    assert set(batches[17].texts) == {"video0", "video1"} and batches[17].fps == 25
    pictures = batches[1]
    assert pictures.fps == 120, "what the network is told of a picture, as published"
    assert pictures.pixels.shape == (4, 3, 1, 32, 48)
    for text, pixels in zip(pictures.texts, pictures.pixels, strict=True):
        top, bottom = (pixels[:, 0, row, 24] for row in (4, 28))
        full = torch.tensor([[200.0, 40, 40], [40, 40, 200]]) * (0.5 if text == "glass" else 1)
        torch.testing.assert_close((torch.stack([top, bottom]) + 1) * 127.5, full, atol=4, rtol=0)


def test_a_batch_of_files_follows_the_epochs_and_its_number_alone(folder):
    source = FileSource(folder, [Bucket("32x48", 17, 1)], fps=25, seed=3)
    expected = [batch for epoch in range(3) for batch in source.dataset.batches(epoch, seed=3)]
    batches = source.pixels(Share())
    for index in (5, 0, 3):
        (item,) = expected[index]
        frames = torch.from_numpy(source.dataset[item].frames)
        torch.testing.assert_close((batches[index].pixels[0].permute(1, 2, 3, 0) + 1) * 127.5, frames.float())
    ranks = [source.pixels(Share(rank, 2)) for rank in range(2)]
    assert {rank[0].texts for rank in ranks} == {("video0",), ("video1",)}


def test_the_settings_of_files_change_with_a_caption_and_not_with_their_place(folder, tmp_path):
    buckets = [Bucket("32x48", 17)]
    before = FileSource(folder, buckets).settings()
    moved = folder.rename(tmp_path / "moved")
    assert FileSource(moved, buckets).settings() == before
    (moved / "video0.txt").write_text("another")
    assert FileSource(moved, buckets).settings() != before


def test_the_world_is_drawn_anew_for_every_example_by_its_number(caplog):
    source = WorldSource(WorldClips(1000, (1, 2), SIZE, first_seed=HELD_OUT, latest_start=2.0), batch_size=2, seed=7)
    whole = [source.pixels(Share())[index] for index in range(20)]
    assert {batch.pixels.shape[2] for batch in whole} == {1, 2}
    assert len({text for batch in whole for text in batch.texts}) > 35
    captions = {render(HELD_OUT + seed, 1, SIZE)[1] for seed in range(1000)}
    assert {text for batch in whole for text in batch.texts} <= captions
    halves_of_it = [WorldSource(source.clips, 1, 7).pixels(Share(rank, 2)) for rank in range(2)]
    for index in (13, 2):
        texts = [rank[index].texts[0] for rank in halves_of_it]
        assert texts == list(whole[index].texts)
        assert torch.equal(torch.cat([rank[index].pixels for rank in halves_of_it]), whole[index].pixels)
    assert WorldSource(source.clips, 2, 8).pixels(Share())[2].texts != whole[2].texts


def test_a_clip_of_the_world_begins_anywhere_it_may():
    first, caption, _ = render(5, 30, SIZE)
    starts = set()
    for number in range(12):
        clip = WorldClips(1, (1,), SIZE, first_seed=5, latest_start=29 / 24)
        batch = WorldSource(clip, 1, seed=number).pixels(Share())[0]
        frame = ((batch.pixels[0, :, 0].permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8).numpy()
        starts.add(next(i for i in range(30) if np.array_equal(first[i], frame)))
        assert batch.texts == (caption,)
    assert len(starts) > 6


@pytest.fixture(scope="module")
def networks(models) -> Networks:
    vae = load_vae(models / "vae")
    return Networks(vae, TextEncoder.load(models / "text_encoder", "cpu", torch.float32), torch.device("cpu"))


@pytest.mark.parametrize("num_frames", [34, 20, 1])
def test_pieces_of_a_small_clip_are_encoded_together_to_the_same_latents(networks, num_frames):
    frames, _, _ = render(3, num_frames, SIZE)
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        mode, drawn = (networks.vae.encode(pixels, noise)[0] for noise in (None, posterior_noise("3/8")))
    torch.testing.assert_close(networks.latents(pixels, None), mode, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(networks.latents(pixels, "3/8"), drawn, atol=1e-5, rtol=1e-4)
    assert (mode - drawn).abs().mean() > 1e-3


def test_a_source_encoded_while_training_gives_its_own_clips(networks):
    source = WorldSource(WorldClips(1000, (17,), SIZE), batch_size=2, seed=1)
    coding = Coding("sample", seed=9, aesthetic=6.5)
    batches = EncodedSource(source, networks, coding).clips(Share(1, 2))
    batch, pixels = batches[3], source.pixels(Share(1, 2))[3]
    assert (batch.size, batch.fps) == (SIZE, 24.0)
    for item, example in enumerate(Share(1, 2).examples(3, 2)):
        with torch.no_grad():
            expected = networks.vae.encode(pixels.pixels[item][None], posterior_noise(f"9/{example}"))[0]
        torch.testing.assert_close(batch.latents[item], expected, atol=1e-5, rtol=1e-4)
        read = f"{pixels.texts[item].lower()} aesthetic score: 6.5."
        assert torch.equal(batch.embeddings[item], networks.text_encoder.encode([read])[0])
    assert torch.equal(batches[3].latents, batch.latents)


def test_the_options_of_the_world_reach_its_clips():
    shares = ["--changing", "0.2", "--mending", "0.7", "--clips", "30", "--first-seed", "9", "--latest-start", "2"]
    typed = ["preprocess", "world", "--size", "16x24", "--frames", "34", "--vae", "x", "--text-encoder", "x", *shares]
    options = parser().parse_args([*typed, "--out", "y"])
    clips = raw_clips(data_from(options, "world"))
    assert clips == WorldClips(30, (34,), SIZE, first_seed=9, latest_start=2.0, changing=0.2, mending=0.7)
    starts = set()
    for seed, clip in zip(range(9, 15), clips, strict=False):
        every = (render_changing(seed, 34, SIZE, changing=0.2, mending=0.7, start=start) for start in range(49))
        start, expected = next((n, e) for n, e in enumerate(every) if np.array_equal(clip.frames, e.frames))
        starts.add(start)
        assert clip.text == expected.captions[0][1]
    assert len(starts) > 3


def test_what_data_names_and_what_does_not_fit_it(folder):
    assert isinstance(pixel_source(Data("world", (17, 34), SIZE), 2, 0), WorldSource)
    assert pixel_source(Data("world"), 2, 0).settings()["clips"] == HELD_OUT
    assert len(raw_clips(Data("world", clips=12))) == 12
    assert len(raw_clips(Data(str(folder), (17, 34), (32, 48), 25.0))) == 2
    clips = raw_clips(Data(str(folder), buckets=("32x48:17", "32x48:1"), fps=25.0))
    assert len(clips) == 2 * 2 + 4
    assert sorted({clips[i].frames.shape[0] for i in range(len(clips))}) == [1, 17]
    assert all(clips[i].pixels().shape[1:] == (3, len(clips[i].frames), 32, 48) for i in range(len(clips)))
    for wrong, told in [
        (Data("world"), "say how many --clips"),
        (Data("world", clips=1, size=(8, 8)), "a clip of the world has"),
        (Data(str(folder), size=(32, 48), fps=float("nan")), "frame rate"),
        (Data("world", clips=1, buckets=("32x48:17",)), "leave --bucket out"),
        (Data(str(folder)), "say in which form"),
        (Data(str(folder), size=(32, 48), clips=3), "belong to the world"),
        (Data(str(folder), size=(32, 48), mending=0.5), "belong to the world"),
        (Data("world", clips=3, changing=0.6, mending=0.6), "together at most 1"),
        (Data("world", clips=3, mending=float("nan")), "together at most 1"),
        (Data(str(folder), buckets=("32x48",)), "a bucket is RESOLUTION:FRAMES"),
        (Data(str(folder / "video0.txt"), size=(32, 48)), "expected a .csv or .jsonl file, or a folder"),
    ]:
        with pytest.raises(InputError, match=told.replace("(", r"\(")):
            raw_clips(wrong)
    with pytest.raises(InputError, match="of both kinds"):
        clip_source(Data("world", clips=2 * HELD_OUT), 1, 0, Coding(), lambda: pytest.fail("not reached"))
    with pytest.raises(InputError, match="are pre-computed"):
        pixel_source(Data("world", clips=2, mending=0.5), 1, 0)
    assert parse_bucket("240p:51:4", 1) == Bucket("240p", 51, 4)
    assert parse_bucket("64x96:119", 3) == Bucket("64x96", 119, 3)
