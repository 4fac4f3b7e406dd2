"""One window, and whole videos, by teams of processes against one process."""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor

from pavdm.errors import InputError
from pavdm.models.stdit3 import STDiT3, STDiT3Config, initialize_weights
from pavdm.parallel.exchange import Exchange
from pavdm.parallel.team import Team
from pavdm.parallel.velocity import VelocitySettings, check_model, follow, lead
from pavdm.prompts import PromptSchedule
from pavdm.sampling import progressive, rectified_flow
from pavdm.sampling.guidance import GuidedVelocity
from pavdm.sampling.schedule import Schedule

CONFIG = STDiT3Config(hidden_size=32, depth=2, num_heads=2, caption_channels=16, model_max_length=12)
TEXTS = {"rain": 3, "snow": 7, "sun": 7}
SIZE = (48, 64)


def settings(guidance: float, model: str = "m") -> VelocitySettings:
    return VelocitySettings(guidance, SIZE, 24.0, model)


def load(embeddings: dict[str, Tensor], asked: VelocitySettings) -> GuidedVelocity:
    check_model(asked, "m")
    network = STDiT3(CONFIG)
    initialize_weights(network, torch.Generator().manual_seed(0))
    network.requires_grad_(False)
    return GuidedVelocity(network, embeddings, guidance_scale=asked.guidance_scale, size=asked.size, fps=asked.fps)


def embeddings() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {text: torch.randn(tokens, 16, generator=generator) for text, tokens in TEXTS.items()}


def no_way_out(reason: str) -> None:
    raise SystemExit(reason)


def as_team(rank: int, size: int, guidance: float, job: Any) -> Any:
    with Team(size, 60, no_way_out) as team:
        team.connect(torch.device("cpu"), guidance != 1)
        if team.leads:
            return job(lead(team, load, embeddings(), settings(guidance)))
        follow(team, load, lambda: False)


def relative_error(out: Tensor, reference: Tensor) -> float:
    return float((out - reference).norm() / reference.norm())


def call(length: int, latent_size: tuple[int, int], masked: bool) -> tuple[Tensor, Tensor, Any, Tensor | None]:
    """The arguments of one model call; masked: with frames that are held, as in Open-Sora's replacement."""
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(1, 4, length, *latent_size, generator=generator)
    timesteps = 1000 * torch.rand(1, length, generator=generator)
    names = list(TEXTS)
    texts = (tuple(names[frame * 3 // length] for frame in range(length)),)
    mask = (torch.arange(length) >= length // 3)[None] if masked else None
    return latents, timesteps, texts, mask


def calls(latent_size: tuple[int, int], velocity: Any) -> list[Tensor]:
    """Windows whose frames divide by neither 2, 3 nor 4, or do, or are fewer than the processes."""
    return [velocity(*call(length, latent_size, masked)) for length, masked in ((7, False), (12, True), (1, False))]


@pytest.mark.parametrize(
    ("size", "guidance", "latent_size"),
    [
        (2, 7.0, (5, 9)),  # one process for each half of the guidance pair
        (2, 1.0, (5, 9)),  # no pair; 3 x 5 tokens, shared out as 8 and 7
        (3, 7.0, (5, 9)),  # an odd number: the pair is not split
        (4, 7.0, (5, 9)),  # two for each half
        (3, 1.0, (2, 3)),  # 2 tokens a frame for 3 processes: one has none
    ],
)
def test_a_window_comes_out_as_from_one_process(
    run_team: Any, size: int, guidance: float, latent_size: tuple[int, int]
) -> None:
    alone = calls(latent_size, load(embeddings(), settings(guidance)))
    shared, statuses = run_team(size, as_team, size, guidance, partial(calls, latent_size))
    assert statuses == [0] * size
    errors = [relative_error(a, b) for a, b in zip(shared, alone, strict=True)]
    assert max(errors) < 1e-6, errors


def progressive_video(velocity: Any) -> Tensor:
    """Three chunks after a clip, the text changing under way."""
    state = progressive.start(
        Schedule(window_chunks=2, chunk_latents=3, steps=4),
        torch.randn(1, 4, 3, 5, 6, generator=torch.Generator().manual_seed(3)),
        seeds=(1,),
        prompts=(PromptSchedule.parse("|0| rain |1| snow"),),
        chunk_seconds=1.0,
        total=3,
    )
    return torch.cat([chunk for _, chunk in progressive.sample(state, velocity)], dim=2)


def replacement_video(velocity: Any) -> Tensor:
    """Two loops of the baseline after a clip."""
    clips = rectified_flow.extend(
        rectified_flow.ReplacementLoop(clip_latents=5, condition_latents=2, steps=3, align=None),
        velocity,
        torch.randn(1, 4, 2, 5, 6, generator=torch.Generator().manual_seed(3)),
        shape=(1, 4, 5, 6),
        texts_for=lambda position: (("rain", "snow")[int(position)],),
        noise=lambda index, step, shape: progressive.named_noise(f"{index}/{step}", shape),
    )
    return torch.cat(list(islice(clips, 2)), dim=2)


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("video", [progressive_video, replacement_video])
def test_a_whole_video_comes_out_as_from_one_process(run_team: Any, size: int, video: Any) -> None:
    alone = video(load(embeddings(), settings(7.0)))
    shared, statuses = run_team(size, as_team, size, 7.0, video)
    assert statuses == [0] * size
    assert alone.std() > 0.1
    assert relative_error(shared, alone) < 1e-5


def bytes_sent(size: int, rank: int) -> int:
    with Team(size, 60, no_way_out) as team:
        team.connect(torch.device("cpu"), guided=False)
        if not team.leads:
            follow(team, load, lambda: False)
            return 0
        velocity = lead(team, load, embeddings(), settings(1.0))
        velocity(*call(12, (6, 8), False))
        sharing = velocity._guided.network.sharing
        assert isinstance(sharing, Exchange)
        return sharing.bytes_sent


@pytest.mark.parametrize("size", [2, 3])
def test_the_exchanges_send_what_their_description_says(run_team: Any, size: int) -> None:
    sent, _ = run_team(size, lambda rank: bytes_sent(size, rank))
    tokens, width, values = 12 * 12, 32, 32  # 12 frames of 3 x 4 tokens; channels; output values of a token
    before_blocks = (2 * CONFIG.depth - 1) * (size - 1) / size**2 * tokens * width * 4
    output = (size - 1) / size * tokens * values * 4
    assert sent == before_blocks + output


def breaking(message: str, rank: int, at_load: bool) -> Any:
    """A team of two whose process 1 fails in the second model call, or when it loads."""
    loaded = []

    def load_or_fail(texts: dict[str, Tensor], asked: VelocitySettings) -> GuidedVelocity:
        if rank == 1 and at_load:
            raise InputError(message)
        loaded.append(load(texts, asked))
        return loaded[0]

    def calls_until_stop() -> bool:
        loaded[0].predict = fail  # type: ignore[method-assign]
        return False

    def fail(*arguments: Any) -> Tensor:
        raise RuntimeError(message)

    with Team(2, 60, no_way_out) as team:
        team.connect(torch.device("cpu"), guided=True)
        if not team.leads:
            follow(team, load_or_fail, calls_until_stop)
        try:
            velocity = lead(team, load_or_fail, embeddings(), settings(7.0))
            for _ in range(3):
                velocity(*call(5, (4, 4), False))
        except InputError as error:
            return str(error)
    return None


@pytest.mark.parametrize("at_load", [True, False])
def test_what_a_process_fails_of_is_told_by_the_first(run_team: Any, at_load: bool) -> None:
    told, statuses = run_team(2, lambda rank: breaking("the card caught fire", rank, at_load))
    assert told == "process 1 of 2 failed: the card caught fire"
    assert statuses == [0, 1]
