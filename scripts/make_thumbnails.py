"""Render workflows/*.jpg: python scripts/make_thumbnails.py --server URL.

Each demo workflow is run as it is on a ComfyUI with this pack and the small model; six frames of its video, from the
beginning to the end, become the thumbnail of it and of its twin. Where a workflow saves two videos, they are two rows.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

import av
import numpy as np
from PIL import Image

from pavdm.comfyui.client import Client, ServerError
from pavdm.comfyui.convert import read_workflow

WORKFLOWS = Path(__file__).resolve().parent.parent / "workflows"
COLUMNS, ROWS, WIDTH, GAP = 3, 2, 192, 4


def shown(path: Path, count: int) -> list[Image.Image]:
    """`count` frames of a video, evenly from the first to the last."""
    with av.open(str(path)) as video:
        frames = [frame.to_image() for frame in video.decode(video=0)]
    return [frames[index] for index in np.linspace(0, len(frames) - 1, count).round().astype(int)]


def sheet(videos: list[Path]) -> Image.Image:
    rows = [shown(path, COLUMNS) for path in videos]
    if len(rows) == 1:
        six = shown(videos[0], COLUMNS * ROWS)
        rows = [six[:COLUMNS], six[COLUMNS:]]
    height = round(WIDTH * rows[0][0].height / rows[0][0].width)
    size = (COLUMNS * (WIDTH + GAP) - GAP, len(rows) * (height + GAP) - GAP)
    picture = Image.new("RGB", size, "#1b1f3b")
    for row, frames in enumerate(rows):
        for column, frame in enumerate(frames):
            scaled = frame.resize((WIDTH, height), Image.Resampling.LANCZOS)
            picture.paste(scaled, (column * (WIDTH + GAP), row * (height + GAP)))
    return picture


async def render(url: str) -> None:
    async with Client(url) as client:
        for file in sorted((WORKFLOWS / "api").glob("demo_*.json")):
            outcome = await client.run(read_workflow(file))
            with tempfile.TemporaryDirectory() as scratch:
                videos = []
                for index, saved in enumerate(saved for saved in outcome.files if saved.kind == "output"):
                    if saved.filename.endswith(".mp4"):
                        videos.append(Path(scratch, f"{index}.mp4"))
                        await client.download(saved, videos[-1])
                picture = sheet(videos)
            for name in (file.stem, file.stem.removeprefix("demo_")):
                picture.save(WORKFLOWS / f"{name}.jpg", quality=85)
                print(WORKFLOWS / f"{name}.jpg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", required=True, metavar="URL")
    options = parser.parse_args()
    try:
        asyncio.run(render(options.server))
    except ServerError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
