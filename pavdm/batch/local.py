"""Videos made in this process, by networks that are loaded once."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from pavdm.chunks import Monitor
from pavdm.engine import Outcome, make_video, texts_of
from pavdm.networks import Networks
from pavdm.parallel.team import Team
from pavdm.settings import Settings


def made_by(networks: Networks) -> dict[str, str]:
    """What of the networks decides the videos, for `work.Job.made_from`."""
    precision = networks.precision
    how = {"dtype": precision.dtype, "text dtype": precision.text_dtype, "tile": precision.tile}
    return {name: str(value) for name, value in {**networks.fingerprints, **how}.items()}


def check_texts(settings: Settings) -> None:
    """Raise InputError for a text that cannot be cleaned: there are some few."""
    texts_of(settings)


class LocalMaker:
    """A `work.Maker`. texts: all that the videos will read, encoded before the other networks take up memory.

    team: processes that share the model calls of every video; this one is their leader.
    """

    def __init__(self, networks: Networks, texts: Iterable[str], task: str, team: Team | None = None) -> None:
        self.networks = networks
        self.task = task
        self._team = team
        self._texts = list(texts)

    def prepare(self) -> None:
        self.networks.encode(self._texts)
        _ = self.networks.vae, self.networks.stdit

    def make(self, settings: Settings, monitor: Monitor) -> Outcome:
        return make_video(settings, self.networks, monitor, self._team)

    def is_fit(self) -> bool:
        """After an error in one of its kernels, a GPU refuses everything else; a team that lost a process is none."""
        if self._team is not None and not self._team.in_order:
            return False
        device = self.networks.precision.device
        try:
            if device.type == "cuda":
                torch.cuda.empty_cache()
            return bool(torch.ones(1, device=device).sum().item() == 1)
        except RuntimeError:
            return False

    def is_alone(self) -> bool:
        return True
