"""Who makes which video: claims in the shared folder, so that work is handed out as processes get free.

    sample_0003.mp4      the finished video
    work, sample_0003    a folder for each video:
        item.json        what it is made from: a later batch must agree with it
        claim-0001       who makes it; claim-0002 is whoever took over from a dead process
        state            the engine's state: the window and the chunks so far
        done.json, failed.json

Of claims only the one with the highest number counts, and a file of a name can be made once: so one process at most
gets it, and a process that was only asleep sees that it has lost it. A claim is free to be taken over when its file
says `released`, or when its owner does not live any more (`member`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pavdm.batch.member import Member, read_json, write_json
from pavdm.errors import InputError


@dataclass(frozen=True)
class Claim:
    """The right to make one video. `take` counts, from 1, how many processes have had it."""

    work: Work
    take: int

    @property
    def holds(self) -> bool:
        """Whether nobody has taken it over meanwhile."""
        return not self.work.claim_file(self.take + 1).exists()

    def release(self) -> None:
        """Let others have it at once; nothing if it is lost already."""
        self.work.released_file(self.take).touch()


class Work:
    """The folder of one video in the making. video: where it will be when it is finished."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.video = directory / f"{name}.mp4"
        self.folder = directory / "work" / name
        self.state = self.folder / "state"
        self.log = directory / "logs" / f"{name}.log"

    def claim_file(self, take: int) -> Path:
        return self.folder / f"claim-{take:04d}"

    def released_file(self, take: int) -> Path:
        return self.folder / f"released-{take:04d}"

    def check(self, made_from: dict[str, str]) -> None:
        """Raise InputError if the video, finished or begun, is made from anything else, or is not this batch's."""
        if (otherwise := self.begun_otherwise(made_from)) is not None:
            raise InputError(otherwise)
        if self.video.exists() and not (self.folder / "item.json").exists():
            raise InputError(f"{self.video} is there already and was not made by a batch: choose another --out")

    def begun_otherwise(self, made_from: dict[str, str]) -> str | None:
        """How what was begun differs from what should be made; None if it does not, or nothing was begun."""
        begun = _read(self.folder / "item.json")
        if begun is None:
            return None
        keys = [*begun, *(key for key in made_from if key not in begun)]
        differing = [
            f"{key}: {begun.get(key)} then, {made_from.get(key)} now"
            for key in keys
            if begun.get(key) != made_from.get(key)
        ]
        return f"{self.name} was begun otherwise ({'; '.join(differing)})" if differing else None

    def finished(self) -> dict[str, Any] | None:
        """The record of the finished video; None while there is none."""
        return _read(self.folder / "done.json") if self.video.exists() else None

    def failed(self, run: str | None = None) -> dict[str, Any] | None:
        """The record of the last failure, if it was in launch `run` (None: whenever)."""
        record = _read(self.folder / "failed.json")
        return record if record is not None and run in (None, record.get("run")) else None

    def is_settled(self, run: str) -> bool:
        """Whether it is finished, or has failed in this launch: nobody tries it again before the next one."""
        return self.finished() is not None or self.failed(run) is not None

    def claim(self, member: Member, made_from: dict[str, str]) -> Claim | None:
        """The claim, if the video is free to be made; None if another process has it, or it is settled.

        What is taken over from a dead process counts as a loss (`losses`).

        Raises InputError if another process has begun it otherwise meanwhile: somebody edited the list.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        take = sum(1 for _ in self.folder.glob("claim-*"))
        if take and not self._is_free(take, member):
            return None
        try:
            handle = os.open(self.claim_file(take + 1), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return None
        with os.fdopen(handle, "w") as file:
            file.write(member.token)
        claim = Claim(self, take + 1)
        if take and not self.released_file(take).exists():
            self.note_loss(Claim(self, take), member.run)
        if self.is_settled(member.run):  # between the look and the claim
            claim.release()
            return None
        if (otherwise := self.begun_otherwise(made_from)) is not None:
            claim.release()
            raise InputError(f"{otherwise}: the list has changed since another process of this batch read it")
        if not (self.folder / "item.json").exists():
            write_json(self.folder / "item.json", made_from)
        return claim

    def finish(self, claim: Claim, made: Path, record: dict[str, Any]) -> bool:
        """Give the video its name and write its record; False, and nothing, if the claim is lost."""
        if not claim.holds:
            return False
        made.replace(self.video)
        write_json(self.folder / "done.json", record)
        for left in [self.folder / "failed.json", *self.folder.glob("take-*")]:
            left.unlink(missing_ok=True)
        return True

    def fail(self, record: dict[str, Any]) -> None:
        write_json(self.folder / "failed.json", record)

    def note_loss(self, claim: Claim, run: str) -> int:
        """Note that the maker of this video is gone; how often that was so in this launch."""
        (self.folder / f"lost-{run}-{claim.take:04d}").touch()
        return self.losses(run)

    def losses(self, run: str) -> int:
        """How often in this launch the maker of this video was gone, with a word or without."""
        return sum(1 for _ in self.folder.glob(f"lost-{run}-*"))

    def _is_free(self, take: int, member: Member) -> bool:
        if self.released_file(take).exists():
            return True
        file = self.claim_file(take)
        try:
            owner = file.read_text()
        except FileNotFoundError:
            return False
        if not owner:  # made a moment ago, or its maker died in that moment
            return member.is_older_than_a_lease(file)
        return not member.lives(owner)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): delete it to have this video made again") from error
