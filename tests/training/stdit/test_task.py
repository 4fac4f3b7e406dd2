"""Training of STDiT3: what the network is shown, and that its checkpoints are what the loaders and the sampler take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from memory_source import WIDTH, MemorySource
from torch import Tensor

from pavdm.errors import InputError
from pavdm.models.checkpoint import load_stdit3
from pavdm.models.stdit3 import STDiT3, STDiT3Config, initialize_weights
from pavdm.sampling.schedule import Schedule, timestep_shift
from pavdm.training.data.source import Clips
from pavdm.training.run import checkpoint_blocks, train
from pavdm.training.run_options import RunOptions
from pavdm.training.start import from_checkpoint, from_scratch, initialize
from pavdm.training.stdit.frame_masks import FrameMasks
from pavdm.training.stdit.noising import Noising, ProgressiveWindows, WholeClips
from pavdm.training.stdit.objective import Noised, WholeClipTimesteps
from pavdm.training.stdit.samples import Sampler
from pavdm.training.stdit.task import STDiTTask
from pavdm.training.stdit.windows import TrainingWindows
from pavdm.training.task import Share

CONFIG = STDiT3Config(hidden_size=32, depth=1, num_heads=2, caption_channels=WIDTH, model_max_length=8)
SCHEDULE = Schedule(window_chunks=3, chunk_latents=2, steps=6)
WINDOWS = ProgressiveWindows(TrainingWindows(SCHEDULE))
RESAMPLED = ProgressiveWindows(TrainingWindows(SCHEDULE, resampled_share=1.0))
NOISINGS: list[Noising] = [WINDOWS, RESAMPLED, WholeClips(WholeClipTimesteps(), FrameMasks({"image_head": 0.5}))]


def network(seed: int = 0) -> STDiT3:
    made = STDiT3(CONFIG)
    initialize_weights(made, torch.Generator().manual_seed(seed))
    return made


@pytest.mark.parametrize("noising", NOISINGS, ids=["progressive", "resampled", "whole-clip"])
def test_a_step_is_shown_the_same_however_it_is_divided(noising: Noising) -> None:
    def shown(share: Share, batch_size: int, indices: tuple[int, ...]) -> dict[str, Tensor]:
        task = STDiTTask(network(), MemorySource(batch_size=batch_size), noising, text_dropout=0.5)
        batches = [task.examples(share)[index] for index in indices]
        names = ("latents", "timesteps", "target", "counted")
        joined = {name: torch.cat([getattr(batch.noised, name) for batch in batches]) for name in names}
        return {**joined, "dropped": torch.cat([batch.dropped for batch in batches])}

    whole = shown(Share(), 4, (5,))
    for name, tensor in shown(Share(accumulation=2), 2, (10, 11)).items():
        assert torch.equal(tensor, whole[name]), name
    parts = [shown(Share(rank=rank, world_size=2), 2, (5,)) for rank in range(2)]
    for name, tensor in whole.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), tensor), name
    assert not torch.equal(shown(Share(), 4, (6,))["timesteps"], whole["timesteps"])


def test_timesteps_are_shifted_as_those_of_the_full_window_also_where_it_is_shorter() -> None:
    plain = ProgressiveWindows(TrainingWindows(SCHEDULE), transform=False)
    ratio = timestep_shift(32, 48, SCHEDULE.window_latents)
    lengths = set()
    for index in range(12):
        moved, unmoved = (STDiTTask(network(), MemorySource(), n).examples(Share())[index] for n in (WINDOWS, plain))
        t = unmoved.noised.timesteps / 1000
        torch.testing.assert_close(moved.noised.timesteps / 1000, ratio * t / (1 + (ratio - 1) * t))
        lengths.add(t.shape[1])
    assert len(lengths) > 1


def test_dropped_texts_have_no_effect_and_their_share_is_kept() -> None:
    task = STDiTTask(network(), MemorySource(), WINDOWS, text_dropout=0.25)
    batch = task.examples(Share())[0]
    losses = {}
    for dropped in (False, True):
        for scale in (1.0, 2.0):
            batch = type(batch)(
                batch.noised,
                tuple(e * scale for e in batch.embeddings),
                torch.tensor([dropped, dropped]),
                24.0,
                (32, 48),
            )
            losses[dropped, scale] = task.objective(batch)[0].item()
    assert losses[True, 1.0] == losses[True, 2.0] != losses[False, 1.0]
    assert losses[False, 1.0] != losses[False, 2.0]
    examples = task.examples(Share())
    share = torch.cat([examples[index].dropped for index in range(200)]).float().mean()
    assert 0.18 < float(share) < 0.32


@pytest.mark.parametrize("noising", [WINDOWS, RESAMPLED], ids=["progressive", "resampled"])
def test_recomputed_activations_give_the_same_gradients(noising: Noising) -> None:
    def gradients(recomputed: bool) -> list[Tensor]:
        task = STDiTTask(network(), MemorySource(), noising)
        if recomputed:
            checkpoint_blocks(task.blocks())
        task.objective(task.examples(Share())[0])[0].backward()
        return [parameter.grad for parameter in task.network.parameters()]

    for ours, theirs in zip(gradients(True), gradients(False), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("noising", NOISINGS, ids=["progressive", "resampled", "whole-clip"])
def test_training_lowers_the_loss_on_what_it_was_not_trained_on(tmp_path: Path, noising: Noising) -> None:
    trained, _ = from_scratch(CONFIG, seed=3)

    def loss(of: STDiT3) -> float:
        task = STDiTTask(of, MemorySource(batch_size=4), noising, seed=99)
        with torch.no_grad():
            return sum(float(task.objective(task.examples(Share())[1000 + k])[0]) for k in range(4)) / 4

    before = loss(trained)
    options = RunOptions(steps=40, learning_rate=3e-3, warmup=5, ema=0.5, cpu=True)
    train(STDiTTask(trained, MemorySource(), noising), options, tmp_path, quiet=True)
    assert loss(trained) < 0.8 * before


@pytest.mark.parametrize("noising", NOISINGS, ids=["progressive", "resampled", "whole-clip"])
def test_a_falling_learning_rate_is_not_gone_on_with_over_other_steps(tmp_path: Path, noising: Noising) -> None:
    def run(steps: int) -> None:
        options = RunOptions(steps=steps, learning_rate=1e-3, warmup=0, decay="cosine", cpu=True)
        train(STDiTTask(network(), MemorySource(), noising), options, tmp_path, quiet=True)

    run(2)
    with pytest.raises(InputError, match=r"steps: 2 there, 4 now"):
        run(4)


def test_a_checkpoint_is_a_published_network_and_training_goes_on_from_it(tmp_path: Path) -> None:
    first = network()
    options = RunOptions(steps=2, learning_rate=1e-3, warmup=0, ema=0.5, cpu=True)
    last = train(STDiTTask(first, MemorySource(), WINDOWS), options, tmp_path, quiet=True)
    loaded = load_stdit3(last / "raw")
    for name, tensor in first.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    again, start = from_checkpoint(last / "model")
    averaged = load_stdit3(last / "model").state_dict()
    assert all(torch.equal(tensor, averaged[name]) for name, tensor in again.state_dict().items())
    assert all(parameter.requires_grad for parameter in again.parameters())
    assert start != from_checkpoint(last / "raw")[1]


def test_training_a_checkpoint_leaves_its_file_alone(tmp_path: Path, models: Path) -> None:
    file = models / "stdit" / "model.safetensors"
    before = file.read_bytes()
    tuned, _ = from_checkpoint(models / "stdit")
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(1.0)
    assert file.read_bytes() == before


def test_a_new_network_starts_as_published() -> None:
    made, _ = from_scratch(CONFIG, seed=0)
    state = made.state_dict()
    assert not any(bool(state[f"temporal_blocks.0.{name}.weight"].any()) for name in ("attn.proj", "mlp.fc2"))
    assert not state["temporal_blocks.0.cross_attn.proj.weight"].any()
    assert state["spatial_blocks.0.attn.proj.weight"].any() and state["final_layer.linear.weight"].any()
    bound = (6 / (32 + 96)) ** 0.5
    assert 0.9 * bound < float(state["spatial_blocks.0.attn.qkv.weight"].abs().max()) <= bound
    assert torch.equal(from_scratch(CONFIG, seed=0)[0].state_dict()["t_block.1.weight"], state["t_block.1.weight"])
    assert not torch.equal(from_scratch(CONFIG, seed=1)[0].state_dict()["t_block.1.weight"], state["t_block.1.weight"])
    initialize(made, torch.Generator().manual_seed(5))
    assert not any(bool(state[name].isnan().any()) for name in state)


def test_the_published_initialisation_lets_text_and_frames_be_learned() -> None:
    """What starts at zero has to get gradients, or it stays there."""
    task = STDiTTask(from_scratch(CONFIG, seed=0)[0], MemorySource(), WINDOWS, text_dropout=0.0)
    task.objective(task.examples(Share())[0])[0].backward()
    for name in ("attn.proj", "cross_attn.proj", "mlp.fc2"):
        assert task.network.get_parameter(f"temporal_blocks.0.{name}.weight").grad.any(), name


@pytest.mark.parametrize(
    "schedule",
    [SCHEDULE, Schedule(2, 2, 4, overlap=False), Schedule(2, 2, 4, variable_length=False)],
    ids=["as published", "no clean chunk", "full windows"],
)
def test_a_sample_is_a_video_of_the_clip_and_the_chunks_after_it(tmp_path: Path, schedule: Schedule) -> None:
    from pavdm.video_reader import probe

    sampler = Sampler(schedule, num_chunks=3, guidance_scale=2.0)
    clips = MemorySource()[0]
    sampler.sample(network(), clips, tmp_path, 12)
    found = probe(tmp_path / "step-000012.mp4")
    assert (found.height, found.width) == (32, 48)
    latents = sampler.latents(network(), clips)
    assert latents.isfinite().all()
    if schedule.overlap:
        assert torch.equal(
            latents[:, :, :2], clips.latents[:1, :, :2] if schedule.variable_length else latents[:, :, :2]
        )


@pytest.mark.parametrize(
    "schedule",
    [SCHEDULE, Schedule(2, 2, 4, overlap=False), Schedule(2, 2, 4, variable_length=False)],
    ids=["as published", "no clean chunk", "full windows"],
)
def test_a_sample_of_a_picture_is_made_from_its_caption_alone(tmp_path: Path, schedule: Schedule) -> None:
    from pavdm.video_reader import probe

    picture = replace(MemorySource(latents=1)[0], fps=120.0)
    sampler = Sampler(schedule, num_chunks=2, guidance_scale=2.0)
    sampler.sample(network(), picture, tmp_path, 12)
    assert probe(tmp_path / "step-000012.mp4").fps == pytest.approx(24 / 3.4, rel=0.01)
    latents = sampler.latents(network(), picture)
    assert latents.shape[2] == 4 and latents.isfinite().all()
    other = replace(picture, latents=picture.latents + 1)
    assert torch.equal(sampler.latents(network(), other), latents)
    assert not torch.equal(sampler.latents(network(), replace(picture, embeddings=(torch.ones(3, WIDTH),))), latents)


def test_batches_keep_their_timesteps_where_the_network_looks_at_them() -> None:
    examples = STDiTTask(network(), MemorySource(), RESAMPLED).examples(Share())
    batch = next(examples[index] for index in range(20) if examples[index].noised.history is not None).to("meta")
    assert batch.embeddings[0].device.type == "meta" and batch.dropped.device.type == "cpu"
    for noised in (batch.noised, batch.noised.history):
        assert noised.latents.device.type == "meta" and noised.timesteps.device.type == "cpu"


def test_frames_read_the_text_that_belongs_to_them_in_any_window() -> None:
    """Clips whose caption changes at latent 5: the marks go with the frames that the window takes."""

    class Changing(MemorySource):
        def __getitem__(self, index: int) -> Clips:
            clips = super().__getitem__(index)
            latents = torch.arange(10.0)[None, None, :, None, None].expand_as(clips.latents)
            texts = torch.where(torch.arange(10) < 5, torch.arange(2)[:, None], torch.arange(2, 4)[:, None])
            return replace(clips, latents=latents.contiguous(), embeddings=clips.embeddings * 2, texts=texts)

    def clean_frames(noised: Noised) -> Tensor:
        """The numbers of the frames shown."""
        t = noised.timesteps[:, None, :, None, None] / 1000
        t = t if noised.frame_mask is None else t.where(noised.frame_mask[:, None, :, None, None], 0.0)
        return (noised.latents + t * noised.target).mean(dim=(1, 3, 4)).round()  # x_t + t (x0 - noise) = x0

    seen = set()
    for noising in NOISINGS:
        examples = STDiTTask(network(), Changing(), noising).examples(Share())
        for index in range(8):
            batch = examples[index]
            frames = clean_frames(batch.noised)
            if batch.noised.history is not None:
                before = batch.noised.history.latents[:, :, : SCHEDULE.chunk_latents].mean(dim=(1, 3, 4))
                frames = torch.cat([before, frames], dim=1)
            assert torch.equal(batch.texts, torch.arange(2)[:, None] + 2 * (frames >= 5)), (noising, index)
            seen.add(batch.texts.shape[1])
    assert len(seen) > 1
