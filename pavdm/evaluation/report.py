"""The report on disk: `index.html` for people, `report.json` and two CSV tables for programs."""

from __future__ import annotations

import csv
import io
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pavdm import __version__
from pavdm.errors import InputError
from pavdm.evaluation import registry
from pavdm.evaluation.comparison import Comparison, compare
from pavdm.evaluation.measurement import Measurements
from pavdm.evaluation.page import Fact, render
from pavdm.files import replacing

PAGE, DATA, MEASURES, CHUNKS = "index.html", "report.json", "measures.csv", "chunks.csv"


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raises InputError if a report cannot go there: before hours of measuring, not after."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: give a folder for the report")
    if not folder.parent.is_dir():
        raise InputError(f"the folder {folder.parent} for the report does not exist: make it first")
    try:
        with tempfile.TemporaryFile(dir=folder if folder.exists() else folder.parent):
            pass
    except OSError as error:
        raise InputError(f"the report cannot be written into {folder}: {error.strerror or error}") from error
    there = [name for name in (PAGE, DATA, MEASURES, CHUNKS) if (folder / name).exists()]
    if there and not overwrite:
        raise InputError(f"{folder} holds a report already ({', '.join(there)}): give another --out, or --overwrite")


def write_report(
    methods: Mapping[str, Sequence[Measurements]],
    folder: Path,
    *,
    fvd: Mapping[str, float] | None = None,
    facts: Sequence[Fact] = (),
    shown: int = 12,
    overwrite: bool = False,
    failed: Mapping[str, str] | None = None,
) -> Path:
    """Write the report on the videos of every method into `folder`; returns the page's path.

    fvd: of each method, if it was computed. facts: what stands on top of the page. shown: how many videos get a section
    of their own; all are in the tables. failed: videos and measures that were asked for and could not be had, with the
    reasons.
    Raises InputError if it cannot be written.
    """
    check_folder(folder, overwrite)
    comparison = compare(methods, fvd=fvd)
    made = datetime.now(timezone.utc).strftime("Made %Y-%m-%d %H:%M UTC by")
    data = {**_data(methods, comparison), "failed": dict(failed or {})}
    content = {
        DATA: json.dumps(_finite(data), indent=1, allow_nan=False),
        MEASURES: _table(_measure_rows(methods)),
        CHUNKS: _table(_chunk_rows(methods)),
        PAGE: render(methods, comparison, shown, made, failed or {}, facts),
    }
    try:
        folder.mkdir(exist_ok=True)
        for name, text in content.items():
            with replacing(folder / name) as temporary:  # a file's name need not be Unicode
                temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise InputError(f"cannot write the report into {folder}: {error}") from error
    return folder / PAGE


def _data(methods: Mapping[str, Sequence[Measurements]], comparison: Comparison) -> dict[str, Any]:
    definitions = {
        key: {"name": m.name, "unit": m.unit, "better": m.better, "definition": m.definition, "source": m.source}
        for key in registry.summary_keys()
        for m in [registry.find(key)]
    }
    return {
        "version": __version__,
        "videos": [_video(method, video) for method, videos in methods.items() for video in videos],
        "comparison": asdict(comparison),
        "definitions": definitions,
    }


def _video(method: str, video: Measurements) -> dict[str, Any]:
    keys = [measure.key for measure in registry.SERIES]
    means = {key: video.chunk_means(key) for key in keys}
    return {
        "name": video.name,
        "method": method,
        "fps": video.fps,
        "frames": video.num_frames,
        "height": video.size[0],
        "width": video.size[1],
        "clip_frames": video.layout.clip_frames,
        "chunk_frames": video.layout.chunk_frames,
        "chunks_known": video.layout.known,
        "summary": video.summary,
        "missing": video.missing,
        "cuts": list(video.cuts),
        "seams": [asdict(seam) for seam in video.seams],
        "chunks": [
            {"number": chunk.number, "start": chunk.start, "stop": chunk.stop} | {key: means[key][i] for key in keys}
            for i, chunk in enumerate(video.chunks)
        ],
        "latents": {name: values.tolist() for name, values in video.latents.items()},
        "record": video.record,
    }


def _measure_rows(methods: Mapping[str, Sequence[Measurements]]) -> list[dict[str, Any]]:
    return [
        {"method": method, "video": video.name, "seconds": round(video.seconds, 3)}
        | {key: video.summary.get(key) for key in registry.summary_keys()}
        for method, videos in methods.items()
        for video in videos
    ]


def _chunk_rows(methods: Mapping[str, Sequence[Measurements]]) -> list[dict[str, Any]]:
    rows = []
    for method, videos in methods.items():
        for video in videos:
            ratios = {seam.frame: seam.ratio for seam in video.seams}
            means = {measure.key: video.chunk_means(measure.key) for measure in registry.SERIES}
            rows += [
                {
                    "method": method,
                    "video": video.name,
                    "chunk": chunk.number,
                    "start_frame": chunk.start,
                    "stop_frame": chunk.stop,
                    "start_seconds": round(chunk.start / video.fps, 3),
                    "seam_ratio": ratios.get(chunk.start),
                }
                | {key: _finite(values[i]) for key, values in means.items()}
                for i, chunk in enumerate(video.chunks)
            ]
    return rows


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _finite(content: Any) -> Any:
    """The same with None, as JSON can say it, for every number that is not finite."""
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
