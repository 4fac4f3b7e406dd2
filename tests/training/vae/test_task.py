"""`pavdm train --what vae`: it learns, in its stages, and what it saves is a VAE that the loaders take."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.distributions import Normal, kl_divergence

from pavdm import cli
from pavdm.models.checkpoint import load_vae
from pavdm.models.spatial_vae import SpatialConfig
from pavdm.models.temporal_vae import TemporalConfig
from pavdm.models.vae import VAEConfig, VideoVAE, initialize_weights
from pavdm.training.chance import generator_for
from pavdm.training.data.dataset import Bucket
from pavdm.training.data.pixel_source import FileSource, WorldSource
from pavdm.training.data.world_source import WorldClips
from pavdm.training.run import train
from pavdm.training.run_options import RunOptions
from pavdm.training.task import Share
from pavdm.training.vae.objective import PixelBatch, VAEObjective, normalise, prepare_for_training
from pavdm.training.vae.task import VAETask

CONFIG = VAEConfig(
    spatial=SpatialConfig(latent_channels=6, block_out_channels=(8, 8, 16, 16), layers_per_block=1, norm_num_groups=2),
    temporal=TemporalConfig(
        in_out_channels=6,
        latent_embed_dim=5,
        embed_dim=5,
        filters=16,
        num_res_blocks=1,
        channel_multipliers=(1, 1, 1, 1),
        num_groups=1,
    ),
    spatial_scaling_factor=1.0,
    scale=(1.0,) * 5,
    shift=(0.0,) * 5,
)


def young_vae() -> VideoVAE:
    vae = VideoVAE(CONFIG)
    initialize_weights(vae, generator_for(0))
    prepare_for_training(vae)
    return vae


def world(frames: int) -> WorldSource:
    return WorldSource(WorldClips(50, (frames,), size=(32, 48)), batch_size=2)


def test_the_loss_is_that_of_encode_and_decode_with_the_same_noise():
    vae, weight = young_vae(), 0.1
    batch = VAETask(vae, world(17), frames=0).examples(Share())[3]
    frame_noise, clip_noise = batch.noise
    draws = iter([*frame_noise.split(CONFIG.spatial_micro_batch), clip_noise])
    with torch.no_grad():
        loss, logs = VAEObjective(vae, weight)(batch)
        decoded = vae.decode(vae.encode(batch.pixels, lambda shape: next(draws)), 17)
    error = decoded - batch.pixels
    square = error.square().mean()
    assert logs["psnr"] == pytest.approx(float(10 * torch.log10(4 / square)), abs=1e-3)

    def posterior(moments: torch.Tensor) -> Normal:
        mean, log_variance = moments.chunk(2, dim=1)
        return Normal(mean, (0.5 * log_variance).exp())

    def nats(q: Normal) -> torch.Tensor:
        return kl_divergence(q, Normal(0.0, 1.0)).mean()

    with torch.no_grad():
        images = posterior(vae.spatial_vae.module.encode(batch.pixels.transpose(1, 2).flatten(0, 1)))
        z = (images.mean + images.stddev * frame_noise).unflatten(0, (2, 17)).transpose(1, 2)
        clips = posterior(vae.temporal_vae.encode(z))
        again = vae.temporal_vae.decode(clips.mean + clips.stddev * clip_noise, 17)
    regular = nats(images) + nats(clips)
    assert float(logs["kl"]) == pytest.approx(float(nats(clips)), rel=1e-4)
    expected = 10 * square + 0.2 * error.abs().mean() + weight * regular + 0.1 * (again - z).square().mean()
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)
    assert float(weight * regular) > 0.01 * float(loss), "or its share would not be seen"


def test_stills_are_what_single_frames_are_coded_to():
    vae = young_vae()
    batch = VAETask(vae, world(17), frames=0).examples(Share())[3]
    with torch.no_grad():
        plain, _ = VAEObjective(vae)(batch)
        loss, logs = VAEObjective(vae, still_weight=0.5)(batch)
        frames, coding = [], vae.spatial_vae.module.encode(batch.pixels.transpose(1, 2).flatten(0, 1))
        mean, log_variance = coding.chunk(2, dim=1)
        z = (mean + (0.5 * log_variance).exp() * batch.noise[0]).unflatten(0, (2, 17)).transpose(1, 2)
        clip_mean, clip_log_variance = vae.temporal_vae.encode(z).chunk(2, dim=1)
        decoded = vae.temporal_vae.decode(clip_mean + (0.5 * clip_log_variance).exp() * batch.noise[1], 17)
        expected = 0.0
        for item in range(2):
            frames = [vae.temporal_vae.encode(z[item, None, :, 4 * t, None])[0, :5, 0] for t in range(5)]
            stills = torch.stack(frames, dim=1)
            expected += float((clip_mean[item] - stills).square().mean() / stills.var()) / 2
            for t in (0, 4):
                end = vae.temporal_vae.decode(stills[None, :, t, None], 1)[0, :, 0]
                expected += float((decoded[item, :, 4 * t] - end).square().mean() / end.var()) / 2
    assert expected > 0.01
    assert float(logs["still"]) == pytest.approx(expected, rel=1e-3)
    assert float(loss - plain) == pytest.approx(0.5 * expected, rel=1e-3)


@pytest.mark.parametrize(("part", "learning"), [("spatial", "spatial_vae"), ("temporal", "temporal_vae")])
def test_a_stage_trains_its_half_alone(part, learning):
    task = VAETask(young_vae(), world(1 if part == "spatial" else 17), part=part, frames=3)
    loss, _ = task.objective(task.examples(Share())[0])
    loss.backward()
    for name, weight in task.network.named_parameters():
        assert (weight.grad is not None) == (name.startswith(learning))


def test_a_step_is_the_same_however_it_is_divided():
    task = VAETask(young_vae(), world(17), frames=4, seed=3)
    one, two = (task.examples(Share(rank, 2))[5] for rank in (0, 1))
    halves = [task.examples(Share(accumulation=2))[index] for index in (10, 11)]
    for ours, theirs in zip((one, two), halves, strict=True):
        assert torch.equal(ours.pixels, theirs.pixels) and ours.shown == theirs.shown
        assert all(torch.equal(a, b) for a, b in zip(ours.noise, theirs.noise, strict=True))
    assert not torch.equal(one.pixels, two.pixels) and not torch.equal(one.noise[0], two.noise[0])


def test_latents_of_a_normalised_vae_have_mean_0_and_deviation_1_and_decode_to_the_same_pixels():
    vae, clips = young_vae().requires_grad_(False), [world(17).pixels(Share())[i].pixels for i in range(3)]
    normal = normalise(vae, clips)
    with torch.no_grad():
        latents = torch.cat([normal.encode(pixels) for pixels in clips])
    assert torch.allclose(latents.mean((0, 2, 3, 4)), torch.zeros(5), atol=1e-4)
    assert torch.allclose(latents.std((0, 2, 3, 4)), torch.ones(5), rtol=1e-3)
    once, again = vae.decode(vae.encode(clips[0]), 17), normal.decode(normal.encode(clips[0]), 17)
    assert torch.allclose(once, again, atol=1e-4)
    assert torch.allclose(normalise(normal, clips).scale, normal.scale, rtol=1e-4)  # normalising again changes nothing


def test_the_command_trains_in_stages_and_the_picture_gets_better(tmp_path: Path):
    (tmp_path / "vae.json").write_text(json.dumps(CONFIG.to_dict()), "utf-8")
    data = ["--data", "world", "--size", "32x48", "--batch-size", "4", "--workers", "0", "--cpu", "--quiet"]
    run = ["--optimizer", "muon", "--learning-rate", "4e-3", "--warmup", "3", "--ema", "0.9"]

    def stage_trained(part: str, frames: int, steps: int, start: list[str]) -> Path:
        out = tmp_path / part
        stage = [
            "--what",
            "vae",
            "--part",
            part,
            "--frames",
            str(frames),
            "--steps",
            str(steps),
            *start,
            "--sample-every",
            "30",
        ]
        assert cli.main(["train", *stage, *data, *run, "--decoded-frames", "2", "--out", str(out)]) == 0
        return next(out.glob("step-*")) / "model"

    spatial = stage_trained("spatial", 1, 60, ["--config", str(tmp_path / "vae.json")])
    whole = stage_trained("whole", 17, 6, ["--from", str(spatial)])
    vae = load_vae(whole)
    assert vae.config.spatial == CONFIG.spatial and len(vae.config.scale) == 5
    pixels = WorldSource(WorldClips(8, (1,), size=(32, 48), first_seed=10**9), 8).pixels(Share())[0].pixels
    noise = (torch.zeros(8, 6, 4, 6), None)

    def psnr(vae: VideoVAE) -> float:
        with torch.no_grad():
            return float(VAEObjective(vae)(PixelBatch(pixels, (0,), noise))[1]["psnr"])

    assert psnr(load_vae(spatial)) > psnr(young_vae()) + 3
    assert list(tmp_path.glob("spatial/samples/step-000060.png"))


def test_clips_of_several_sizes_are_normalised_together():
    vae = young_vae().requires_grad_(False)
    sizes = [(2, 32, 48), (3, 48, 32), (1, 32, 32)]
    clips = [torch.rand(count, 3, 17, *size, generator=generator_for(count)) * 2 - 1 for count, *size in sizes]
    normal = normalise(vae, clips)
    flat = torch.cat([normal.encode(pixels).transpose(0, 1).flatten(1) for pixels in clips], dim=1)
    assert torch.allclose(flat.mean(1), torch.zeros(5), atol=1e-4) and torch.allclose(
        flat.std(1), torch.ones(5), rtol=1e-3
    )


def test_a_channel_that_says_nothing_is_not_divided_by_nothing():
    vae = young_vae().requires_grad_(False)
    vae.temporal_vae.quant_conv.conv.weight[2].zero_()
    clips = [world(17).pixels(Share())[0].pixels]
    normal = normalise(vae, clips).requires_grad_(False)
    latents = normal.encode(clips[0])
    assert latents.isfinite().all() and float(latents[:, 2].abs().max()) < 1e-3
    assert torch.allclose(latents.std((0, 2, 3, 4))[[0, 1, 3, 4]], torch.ones(4), rtol=1e-3)


def test_the_half_behind_the_images_learns_too(tmp_path: Path):
    before = young_vae()
    task = VAETask(young_vae(), world(17), part="temporal", frames=2)
    options = RunOptions(steps=12, learning_rate=4e-3, warmup=0, ema=0.5, optimizer="muon", clip=0.0, cpu=True)
    trained = load_vae(train(task, options, tmp_path, quiet=True) / "raw")
    held_out = VAETask(before, world(17), part="temporal", frames=2, seed=9).examples(Share())

    def loss(vae: VideoVAE) -> float:
        with torch.no_grad():
            return sum(float(VAEObjective(vae)(held_out[k])[0]) for k in range(100, 103)) / 3

    for name, weight in before.spatial_vae.state_dict().items():
        assert torch.equal(trained.spatial_vae.state_dict()[name], weight), name
    assert loss(trained) < 0.8 * loss(before)


@pytest.mark.parametrize(("part", "frames"), [("spatial", "1"), ("whole", "5")])
def test_sizes_that_are_no_whole_latents_are_trained_sampled_and_saved(tmp_path: Path, part: str, frames: str):
    (tmp_path / "vae.json").write_text(json.dumps(CONFIG.to_dict()), "utf-8")
    command = ["train", "--what", "vae", "--part", part, "--config", str(tmp_path / "vae.json"), "--cpu", "--quiet"]
    command += ["--data", "world", "--size", "36x53", "--frames", frames, "--batch-size", "2", "--steps", "1"]
    command += ["--workers", "0", "--warmup", "0", "--out", str(tmp_path / "run")]
    assert cli.main([*command, "--dry-run"]) == 0
    assert cli.main(command) == 0
    with Image.open(tmp_path / "run" / "samples" / "step-000001.png") as picture:
        assert picture.size == (2 * 48, 2 * 32)


def test_pictures_of_a_named_bucket_are_cropped_to_what_is_decoded_of_them(tmp_path: Path):
    grey = np.random.default_rng(0).integers(0, 256, (240, 426), np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("noise", "utf-8")
    task = VAETask(young_vae(), FileSource(tmp_path, [Bucket("240p", 1)]), part="spatial")
    batch = task.examples(Share())[0]
    shown = (batch.pixels[0, 0, 0] + 1) * 127.5
    assert torch.equal(shown.round().to(torch.uint8), torch.from_numpy(grey[:, :424]))
    assert task.stand_in(task.source.extents()[0]).pixels.shape == batch.pixels.shape == (1, 3, 1, 240, 424)
    assert torch.isfinite(task.objective(batch)[0])


def test_buckets_longer_than_a_piece_are_refused(tmp_path: Path, capsys):
    command = ["train", "--what", "vae", "--like", "tiny", "--data", str(tmp_path), "--steps", "1", "--cpu"]
    assert cli.main([*command, "--out", str(tmp_path / "run"), "--bucket", "32x48:34"]) == 2
    assert "1 to 17, got 34" in capsys.readouterr().err
