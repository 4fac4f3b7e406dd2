"""The noise schedule for people: as lines of text, and as a picture of who is how noisy at which model call."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pavdm.errors import InputError
from pavdm.sampling.schedule import NUM_TIMESTEPS, Row, Schedule

if TYPE_CHECKING:
    from PIL.Image import Image

# Dark and calm where a frame is clean, bright where it is noise: anchors of a colour ramp, 0 to 1000.
_RAMP = ((28, 38, 84), (43, 96, 134), (58, 154, 143), (146, 203, 109), (250, 229, 99))
_CLEAN = (208, 213, 224)
_INK, _PAPER, _FAINT = (30, 32, 40), (255, 255, 255), (120, 124, 136)
_MARGIN = {"left": 76, "right": 24, "top": 84, "bottom": 56}
_MOST_PIXELS = 3200
MOST_CALLS = 5000


def table_rows(schedule: Schedule, num_chunks: int) -> Iterator[Row]:
    """The rows of a run that makes `num_chunks` new chunks, as the schedule begins and ends it."""
    if schedule.variable_length:
        return schedule.rows(num_chunks)
    warm = schedule.window_chunks - 1
    first, last = schedule.full_window_call(), schedule.num_calls(num_chunks + warm)
    return (row for row in (schedule.row(call) for call in range(first, last)) if row is not None)


def summary(schedule: Schedule) -> str:
    shift = "off" if schedule.shift is None else f"r = {schedule.shift:.3f}"
    return (
        f"{schedule.window_chunks} noisy chunks of {schedule.chunk_latents} latents"
        f"{', one clean chunk in front' if schedule.overlap else ''}, {schedule.steps} steps, "
        f"{schedule.calls_per_chunk} model calls per chunk, timestep transform {shift}"
    )


def format_table(schedule: Schedule, num_chunks: int) -> Iterator[str]:
    """Lines of text: a summary, then one line per model call with the timestep of each chunk in the window."""
    yield summary(schedule)
    yield " call  front chunk  timesteps of the noisy chunks, front first (0 clean, 1000 noise)"
    offset = 0 if schedule.variable_length else schedule.window_chunks - 1
    for row in table_rows(schedule, num_chunks):
        levels = " ".join(f"{float(schedule.timesteps[level]):6.1f}" for level in row.levels)
        yield f"{row.call:5d}  {row.first - offset:11d}  {levels}{'  front chunk done' if row.finishes else ''}"


def plot(schedule: Schedule, num_chunks: int, path: Path) -> None:
    """Write the picture as PNG. Raises InputError if it cannot be written."""
    image = draw(schedule, num_chunks)
    try:
        image.save(path, format="PNG")
    except OSError as error:
        raise InputError(f"cannot write the plot {path}: {error}") from error


def draw(schedule: Schedule, num_chunks: int) -> Image:
    """Model calls from left to right, chunks from top to bottom; the colour is the timestep."""
    from PIL import Image, ImageDraw, ImageFont

    rows = list(table_rows(schedule, num_chunks))
    calls, chunks = len(rows), rows[-1].chunks.stop
    cell_width = max(2, min(12, _MOST_PIXELS // calls))
    cell_height = max(3, min(26, _MOST_PIXELS // chunks))
    left, top = _MARGIN["left"], _MARGIN["top"]
    width, height = max(calls * cell_width, 620), chunks * cell_height
    image = Image.new("RGB", (left + width + _MARGIN["right"], top + height + _MARGIN["bottom"]), _PAPER)
    canvas = ImageDraw.Draw(image)
    font, small = ImageFont.load_default(size=15), ImageFont.load_default(size=12)

    offset = 0 if schedule.variable_length else schedule.window_chunks - 1
    for x, row in enumerate(rows):
        cells = [
            (chunk, _colour(float(schedule.timesteps[level])))
            for chunk, level in zip(row.chunks, row.levels, strict=True)
        ]
        if schedule.overlap:
            cells.append((row.first - 1, _CLEAN))
        for chunk, colour in cells:
            corner = (left + x * cell_width, top + chunk * cell_height)
            if chunk >= 0:
                canvas.rectangle((*corner, corner[0] + cell_width - 1, corner[1] + cell_height - 2), fill=colour)

    canvas.text((left, 14), "Noise level of every chunk at every model call", fill=_INK, font=font)
    canvas.text((left, 36), summary(schedule), fill=_FAINT, font=small)
    for x in range(0, calls, max(1, round(60 / cell_width / 10) * 10 or 10)):
        canvas.text((left + x * cell_width, top + height + 6), str(rows[x].call), fill=_FAINT, font=small)
    canvas.text((left, top + height + 28), "model call", fill=_INK, font=small)
    for chunk in range(0, chunks, max(1, 18 // cell_height)):
        y = top + chunk * cell_height + cell_height / 2
        canvas.text((left - 10, y), str(chunk - offset), fill=_FAINT, font=small, anchor="rm")
    canvas.text((10, top - 20), "chunk", fill=_INK, font=small)
    _legend(canvas, left + width - 260, top + height + 30, small, schedule.overlap)
    return image


def _legend(canvas, x: int, y: int, font, overlap: bool) -> None:  # type: ignore[no-untyped-def]
    for i in range(120):
        canvas.line((x + 60 + i, y, x + 60 + i, y + 12), fill=_colour(i / 119 * NUM_TIMESTEPS))
    canvas.text((x + 54, y + 6), "0", fill=_FAINT, font=font, anchor="rm")
    canvas.text((x + 186, y + 6), "1000 noise", fill=_FAINT, font=font, anchor="lm")
    if overlap:
        canvas.rectangle((x - 80, y, x - 68, y + 12), fill=_CLEAN)
        canvas.text((x - 62, y + 6), "clean chunk", fill=_FAINT, font=font, anchor="lm")


def _colour(timestep: float) -> tuple[int, int, int]:
    position = timestep / NUM_TIMESTEPS * (len(_RAMP) - 1)
    i = min(int(position), len(_RAMP) - 2)
    low, high, share = _RAMP[i], _RAMP[i + 1], position - i
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(low, high, strict=True))
    return red, green, blue
