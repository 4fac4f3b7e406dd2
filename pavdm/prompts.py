"""Prompt schedule: which text is in force at which chunk of the new video.

Three forms, told apart by how the prompt begins:

    a lighthouse in the rain                   one text for the whole video
    |0| a lighthouse |3| the rain stops        from new chunk 3 on, the second text (the published form)
    |0s| a lighthouse |12.5s| the rain stops   from the first chunk that begins at 12.5 s or later

Chunks and seconds count the new video, without the clip. A prompt is read as a schedule only when it begins
with `|` and a number; any other bar is part of a plain text. Inside a schedule a bar always ends a text. The
published code knows the first two forms (`opensora/utils/inference_utils.py`, split_prompt), and tells them
apart by a leading `|0|`; here a schedule that begins with another number is an error, not a plain text with
bars in it.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from pavdm.errors import InputError

_SCHEDULE_START = re.compile(r"\s*\|\s*[-+]?\.?\d")
_SYNTAX = "write '|0| first text |3| next text' (chunks) or '|0s| first text |12.5s| next text' (seconds)"
# A chunk's second is a product with a rounded chunk length; a microsecond is far below the length of a frame.
_ROUNDING_SECONDS = 1e-6


@dataclass(frozen=True)
class PromptSchedule:
    """Texts and the points where each begins. `str(schedule)` is its canonical form: parsing it gives an
    equal schedule.

    texts: at least one, none blank. starts: as many, 0 first, strictly increasing; in chunks (whole) or in
    seconds. Raises InputError otherwise.
    """

    texts: tuple[str, ...]
    starts: tuple[float, ...] = (0,)
    unit: Literal["chunks", "seconds"] = "chunks"

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.starts) or not self.texts:
            raise InputError(
                f"a prompt schedule needs one start for every text, got {len(self.starts)} starts and "
                f"{len(self.texts)} texts; {_SYNTAX}"
            )
        for number, text in enumerate(self.texts, start=1):
            if not text.strip():
                which = "the prompt" if len(self.texts) == 1 else f"text {number} of the prompt schedule"
                raise InputError(f"{which} is empty: describe in it what the video shows")
            if (len(self.texts) > 1 and "|" in text) or _SCHEDULE_START.match(text):
                raise InputError(f"a text of a prompt schedule cannot contain '|', got {text!r}; {_SYNTAX}")
        if self.starts[0] != 0:
            raise InputError(
                f"a prompt schedule must start at 0, got {self._mark(0)} first: begin with the text of the "
                f"first chunk; {_SYNTAX}"
            )
        for number in range(1, len(self.starts)):
            if not self.starts[number - 1] < self.starts[number] < math.inf:
                raise InputError(
                    f"the starts of a prompt schedule must increase, got {self._mark(number)} after "
                    f"{self._mark(number - 1)}: put the texts in the order in which they come into force"
                )

    @classmethod
    def parse(cls, text: str) -> PromptSchedule:
        """The schedule that `text` spells (see the module's docstring). Raises InputError when it spells
        none."""
        if not _SCHEDULE_START.match(text):
            return cls((text.strip(),))
        pieces = text.strip().split("|")[1:]
        if len(pieces) % 2:
            raise InputError(
                f"every start in a prompt schedule needs a second '|' and a text, got {'|' + pieces[-1]!r} "
                f"at the end; {_SYNTAX}"
            )
        marks = [mark.strip() for mark in pieces[::2]]
        texts = tuple(piece.strip() for piece in pieces[1::2])
        in_seconds = [mark.lower().endswith("s") for mark in marks]
        if any(in_seconds) and not all(in_seconds):
            raise InputError(
                f"a prompt schedule counts either chunks or seconds, got both: "
                f"{', '.join(f'|{mark}|' for mark in marks)}; {_SYNTAX}"
            )
        if all(in_seconds):
            seconds = tuple(_seconds(mark) for mark in marks)
            schedule = cls(texts, seconds, "seconds")
        else:
            schedule = cls(texts, tuple(_chunk(mark) for mark in marks))
        return cls(texts) if len(texts) == 1 else schedule

    def index(self, chunk: float, chunk_seconds: float) -> int:
        """Position in `texts` of the text in force for a new chunk that is `chunk_seconds` long.

        chunk: 0 is the first new chunk; the clip's own chunks have negative numbers and take the first text. A fraction
        says that the chunk begins later than its number tells.
        """
        position = chunk * chunk_seconds + _ROUNDING_SECONDS if self.unit == "seconds" else chunk
        return max(bisect_right(self.starts, position) - 1, 0)

    def map(self, function: Callable[[str], str]) -> PromptSchedule:
        """The same schedule with `function` applied to each text, such as `captions.preprocess`."""
        return replace(self, texts=tuple(function(text) for text in self.texts))

    def __str__(self) -> str:
        if len(self.texts) == 1:
            return self.texts[0]
        return " ".join(f"{self._mark(number)} {text}" for number, text in enumerate(self.texts))

    def _mark(self, number: int) -> str:
        if self.unit == "seconds":
            return f"|{repr(float(self.starts[number])).removesuffix('.0')}s|"
        return f"|{self.starts[number]}|"


def _chunk(mark: str) -> int:
    try:
        return int(mark)
    except ValueError:
        raise InputError(
            f"a start in a prompt schedule must be the whole number of a chunk, such as |3|, or seconds, "
            f"such as |12.5s|, got |{mark}|; begin the prompt with a letter if it is no schedule"
        ) from None


def _seconds(mark: str) -> float:
    try:
        return float(mark[:-1])
    except ValueError:
        raise InputError(f"a start in a prompt schedule must be a number of seconds, got |{mark}|; {_SYNTAX}") from None
