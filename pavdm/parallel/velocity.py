"""The velocity of one window, computed by all processes of a team.

The sampler runs in the leader and sees an ordinary velocity function. Each call sends the window to the others
(latents, timesteps, texts: under 1 MB at 240p); every process evaluates its half of the guidance pair, or both halves
where the pair is not split, with its share of the tokens; the other half's result (the latents' size, fp32) comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from torch import Tensor

from pavdm.errors import InputError
from pavdm.parallel.exchange import Exchange
from pavdm.parallel.team import Team
from pavdm.sampling.guidance import GuidedVelocity
from pavdm.sampling.state import Texts


@dataclass(frozen=True)
class VelocitySettings:
    """What a velocity depends on besides the network and the texts; see `GuidedVelocity`.

    model: fingerprint of the network, so that all processes are known to have the same.
    """

    guidance_scale: float
    size: tuple[int, int]
    fps: float
    model: str | None


Load = Callable[[Mapping[str, Tensor], VelocitySettings], GuidedVelocity]
"""Loads the network and prepares it for these texts (embeddings on the CPU)."""


class SharedVelocity:
    """The leader's velocity function: shapes as in `pavdm.sampling.progressive.Velocity`."""

    def __init__(self, guided: GuidedVelocity, team: Team) -> None:
        self._guided = guided
        self._team = team

    def __call__(self, latents: Tensor, timesteps: Tensor, texts: Texts, frame_mask: Tensor | None = None) -> Tensor:
        tensors = {"latents": latents, "timesteps": timesteps}
        if frame_mask is not None:
            tensors["frame_mask"] = frame_mask
        with self._team.in_step():
            self._team.send("evaluate", tensors, {"texts": texts})
            mine = _evaluate(self._guided, self._team, latents, timesteps, texts, frame_mask)
            other = self._team.other_half(mine) if self._team.halves == 2 else None
            self._team.agree_on_stop(False)
        if other is not None:
            return self._guided.combine(mine, other)
        return mine if self._guided.guidance_scale == 1 else self._guided.combine(*mine.chunk(2))


def lead(team: Team, load: Load, embeddings: Mapping[str, Tensor], settings: VelocitySettings) -> SharedVelocity:
    """The leader's velocity; the others load the network at the same time. Raises InputError if one of them fails."""
    tensors = {f"text {index}": embedding for index, embedding in enumerate(embeddings.values())}
    with team.in_step():
        team.send("load", tensors, {"texts": list(embeddings), **asdict(settings)})
        guided = _prepared(load(embeddings, settings), team)
        team.agree_on_stop(False)
    return SharedVelocity(guided, team)


def follow(team: Team, load: Load, should_stop: Callable[[], bool]) -> None:
    """What the other processes do until the leader ends the run. should_stop: whether this one was asked to."""
    guided: GuidedVelocity | None = None
    while (message := team.receive()).kind != "end":
        tensors, facts = message.tensors, message.facts
        texts = facts.pop("texts")
        if message.kind == "load":
            embeddings = {text: tensors[f"text {index}"] for index, text in enumerate(texts)}
            settings = VelocitySettings(**{**facts, "size": tuple(facts["size"])})
            guided = _prepared(load(embeddings, settings), team)
        else:
            assert guided is not None
            device = guided.device
            latents, timesteps, mask = (tensors.get(name) for name in ("latents", "timesteps", "frame_mask"))
            assert latents is not None and timesteps is not None
            mask = None if mask is None else mask.to(device)
            mine = _evaluate(guided, team, latents.to(device), timesteps, texts, mask)
            if team.halves == 2:
                team.other_half(mine)
        team.agree_on_stop(should_stop())


def check_model(settings: VelocitySettings, found: str | None) -> None:
    """Raises InputError if a process found another network than the leader's."""
    if settings.model != found:
        raise InputError("the STDiT3 here is not the one that process 0 has: give all machines the same files")


def _prepared(guided: GuidedVelocity, team: Team) -> GuidedVelocity:
    if team.group_size > 1:
        guided.network.sharing = Exchange(team.group, team.group_place, team.group_size)
    return guided


def _evaluate(
    guided: GuidedVelocity, team: Team, latents: Tensor, timesteps: Tensor, texts: Texts, frame_mask: Tensor | None
) -> Tensor:
    halves = (team.half,) if team.halves == 2 else guided.halves
    return guided.predict(latents, timesteps, texts, frame_mask, halves)
