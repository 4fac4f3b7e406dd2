"""What became of a batch: one row for each video, as results.csv and as a table to read."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pavdm.batch.work import Job
from pavdm.files import replacing

COLUMNS = (
    *("name", "status", "file", "line", "sample", "seed", "prompt", "clip", "frames", "new_frames", "fps", "seconds"),
    *("by", "take", "error", "log"),
)
MOST_ROWS = 60  # of the table; a longer one names only what is not done


@dataclass(frozen=True)
class Result:
    """status: done, failed or open. record: what the process that made it, or failed to, wrote down."""

    job: Job
    status: str
    record: dict[str, object]

    @classmethod
    def of(cls, job: Job) -> Result:
        if (otherwise := job.work.begun_otherwise(job.made_from)) is not None:
            return cls(job, "failed", {"error": otherwise})
        if (done := job.work.finished()) is not None:
            return cls(job, "done", done)
        if (failed := job.work.failed()) is not None:
            return cls(job, "failed", failed)
        return cls(job, "open", {})

    def row(self) -> dict[str, object]:
        item, work = self.job.item, self.job.work
        own = {
            "name": item.name,
            "status": self.status,
            "file": work.video if self.status == "done" else "",
            "line": item.line,
            "sample": item.sample,
            "seed": item.settings.seed,
            "prompt": item.settings.prompt,
            "clip": item.settings.clip or "",
            "log": work.log if work.log.exists() else "",
        }
        return {column: own.get(column, self.record.get(column, "")) for column in COLUMNS}


def write_results(results: Sequence[Result], path: Path) -> None:
    """Write results.csv, whole or not at all. It keeps the rows of videos that this part of the list leaves out, and
    of lines that are in it no more; of parts that end at the same moment, the last to write may leave a row out."""
    rows = {str(row["name"]): row for row in [*_written(path), *(result.row() for result in results)]}
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(sorted(rows.values(), key=lambda row: [str(row[k]).zfill(9) for k in ("line", "sample", "name")]))
    with replacing(path) as temporary:  # all ranks write it at the same moment
        temporary.write_text(text.getvalue(), encoding="utf-8", newline="")


def _written(path: Path) -> list[dict[str, object]]:
    """The rows of an earlier results.csv; none where there is none, or it is something else."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            known = tuple(reader.fieldnames or ()) == COLUMNS
            return [{column: row.get(column) or "" for column in COLUMNS} for row in reader] if known else []
    except (FileNotFoundError, UnicodeDecodeError, csv.Error):
        return []


def table(results: Sequence[Result]) -> list[str]:
    """The lines of a table, and one that sums up."""
    shown = list(results) if len(results) <= MOST_ROWS else [r for r in results if r.status != "done"][:MOST_ROWS]
    rows: list[tuple[str, ...]] = [("video", "status", "frames", "seconds", "by", "prompt, or what went wrong")]
    for result in shown:
        row = result.row()
        text = str(row["error"] or row["prompt"]).replace("\n", " ")
        rows.append((*(str(row[k]) for k in ("name", "status", "frames", "seconds", "by")), _shortened(text, 60)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    counts = {status: sum(r.status == status for r in results) for status in ("done", "failed", "open")}
    summed = f"{counts['done']} of {len(results)} done"
    summed += f", {counts['failed']} failed" if counts["failed"] else ""
    summed += f", {counts['open']} still to make" if counts["open"] else ""
    return [*lines, summed]


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
