"""Every measure once: what it is, its unit, which way is better, where it comes from. Report and docs read this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher", "near 0", "near 1", "steady", "shown"]
IN_WORDS: dict[Better, str] = {
    "lower": "lower is better",
    "higher": "higher is better",
    "near 0": "best at 0",
    "near 1": "best at 1",
    "steady": "",
    "shown": "",
}
# What a measure needs beside numpy, and how to get it; the report says it where the measure is missing.
Needs = Literal["nothing", "opencv", "scenedetect", "latents", "clip", "dino", "vbench", "fvd"]

HOW_TO_GET: dict[str, str] = {
    "opencv": "pip install opencv-python-headless (in this project's extra eval)",
    "scenedetect": "pip install scenedetect-headless (in this project's extra eval)",
    "latents": "give the latents of the video: --latents PATH (a file, or the folder that the run had as its --state)",
    "clip": "give a folder with a CLIP model in transformers' form: --clip DIR (openai/clip-vit-large-patch14, say)",
    "dino": "give a folder with a DINO model in transformers' form: --dino DIR (facebook/dino-vitb16, say)",
    "vbench": "pip install vbench, put its weights into its cache folder, and ask for it: --vbench",
    "fvd": "give a TorchScript I3D and real videos: --i3d FILE --real GLOB",
}

# Those of the paper's table 1, by VBench's names.
VBENCH_DIMENSIONS = (
    "subject_consistency",
    "background_consistency",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
)


@dataclass(frozen=True)
class Measure:
    """One measure.

    better: "steady" where no value is better than another but a change over the video is worse; "shown" where nothing
    can be said without looking. digits: after the point, in tables.
    """

    key: str
    name: str
    unit: str
    better: Better
    definition: str
    source: str
    needs: Needs = "nothing"
    digits: int = 2


# One value for every frame (motion, warp error and frame difference: for a frame and the one before it).
SERIES: tuple[Measure, ...] = (
    Measure(
        "luma",
        "Luma",
        "levels",
        "steady",
        "Mean of 0.2126 R + 0.7152 G + 0.0722 B over the frame, on the stored (gamma-coded) values, 0 to 255.",
        "ITU-R BT.709",
        digits=1,
    ),
    Measure(
        "contrast",
        "Contrast",
        "levels",
        "steady",
        "Standard deviation of the luma over the frame.",
        "RMS contrast, Peli 1990",
        digits=1,
    ),
    Measure(
        "colourfulness",
        "Colourfulness",
        "levels",
        "steady",
        "With rg = R - G and yb = (R + G)/2 - B over the frame: the root of their summed variances plus 0.3 times the "
        "root of their summed squared means. 0 is grey, 33 moderately, 82 highly colourful.",
        "Hasler and Suesstrunk 2003, Measuring colourfulness in natural images",
        digits=1,
    ),
    Measure(
        "saturation",
        "Saturation",
        "0 to 1",
        "steady",
        "Mean over the frame of (max - min) / max of R, G, B; black counts 0.",
        "HSV colour space, Smith 1978",
        digits=3,
    ),
    Measure(
        "sharpness",
        "Sharpness",
        "levels squared",
        "steady",
        "Variance of the four-neighbour Laplacian of the luma, at the video's own size. Noise raises it, too.",
        "Pech-Pacheco et al. 2000, variance of the Laplacian",
        digits=0,
    ),
    Measure(
        "high_frequency",
        "High-frequency energy",
        "share of power",
        "steady",
        "Share of the luma's spectral power (mean removed, Hann window) at more than a quarter cycle per pixel: half "
        "of what the grid can carry.",
        "power spectrum; the cut-off is this project's",
        digits=4,
    ),
    Measure(
        "difference",
        "Frame difference",
        "levels",
        "shown",
        "Mean absolute difference of R, G, B between a frame and the one before it.",
        "as VBench's temporal flickering, without its scaling",
    ),
    Measure(
        "motion",
        "Motion amplitude",
        "% of the shorter side per second",
        "steady",
        "Mean length of the dense optical flow between a frame and the one before it (OpenCV's Farneback, on luma with "
        "a shorter side of at most 240 pixels).",
        "as HeliosBench's motion amplitude; Farneback 2003",
        needs="opencv",
    ),
    Measure(
        "fast_motion",
        "Motion of the fastest 5 %",
        "% of the shorter side per second",
        "steady",
        "Mean flow length of the 5 % of pixels that move fastest.",
        "as VBench's dynamic degree, with Farneback in RAFT's place",
        needs="opencv",
    ),
    Measure(
        "warp_error",
        "Flow-warped error",
        "levels",
        "lower",
        "Mean absolute luma difference between the frame before and this one moved back by the flow, over the pixels "
        "that stay inside the picture. What motion does not explain: flicker, jumps, and what was hidden.",
        "Lai et al. 2018, warping error, without its occlusion mask",
        needs="opencv",
    ),
)

# How a series becomes a number. Each is taken over the new video only, unless the clip is asked for.
STATISTICS: tuple[Measure, ...] = (
    Measure("mean", "mean", "of the series", "shown", "Mean over the frames.", "this project"),
    Measure(
        "drift",
        "drift",
        "of the series",
        "lower",
        "Absolute difference between the mean over the last 15 % of the frames and the mean over the first 15 %.",
        "HeliosBench; Rolling Forcing with 5 s in place of 15 %",
    ),
    Measure(
        "slope",
        "slope",
        "of the series, per minute",
        "near 0",
        "Least-squares slope over the chunk means, against time.",
        "this project: one difference between the ends misses what happens in the middle",
    ),
    Measure(
        "weighted_error",
        "weighted error",
        "none",
        "lower",
        "Ten equal segments with means M1 to M10: the sum over i = 2..10 of (10 - i + 1) |Mi - M1| / M1. Not defined "
        "where M1 is 0.",
        "BlockVid (arXiv 2511.22973), Video Drift Error with linear weights",
    ),
)

SCALARS: tuple[Measure, ...] = (
    Measure(
        "seam_ratio",
        "Seam ratio, mean",
        "ratio",
        "near 1",
        "Frame difference across a chunk boundary over the median frame difference inside the two chunks that meet "
        "there, averaged over the boundaries of the new video. 1: a seam is like any other frame. Medians below 0.1 "
        "levels count as 0.1, and a boundary where nothing changes by that much has no ratio.",
        "this project",
    ),
    Measure(
        "seam_worst",
        "Seam ratio, worst",
        "ratio",
        "near 1",
        "The largest seam ratio of the new video.",
        "this project",
    ),
    Measure(
        "clip_seam",
        "Seam ratio, clip to new video",
        "ratio",
        "near 1",
        "The seam ratio where the conditioning clip ends and new video begins.",
        "this project",
    ),
    Measure(
        "static_share",
        "Static chunks",
        "share",
        "lower",
        "Share of chunks in which the fastest 5 % of pixels move less than 2 % of the shorter side per second on "
        "average (0.2 pixels per frame at 240p and 24 fps).",
        "this project",
        needs="opencv",
    ),
    Measure(
        "motion_kept",
        "Motion kept",
        "ratio",
        "near 1",
        "Mean motion amplitude of the last 5 s over that of the first 5 s of the new video (of its halves, if it is "
        "shorter than 10 s).",
        "this project, after Rolling Forcing's first and last 5 s",
        needs="opencv",
    ),
    Measure(
        "scenes",
        "Scenes",
        "count",
        "lower",
        "Cuts that PySceneDetect's AdaptiveDetector finds with its defaults in the new video, the joint with the clip "
        "included, plus one. 1: no cut.",
        "PA-VDM, table 1 (Num Scenes)",
        needs="scenedetect",
        digits=0,
    ),
    Measure(
        "repetition",
        "Repetition",
        "0 to 1",
        "lower",
        "For every moment: how fully the picture comes back to one that it showed at least 2 s earlier, after having "
        "left it. That is 1 - d(t, s) / max d(t, u) over u between s and t, at the best s, d the distance of 16 x 16 "
        "colour thumbnails; 0 where the picture hardly changed. Mean over all moments later than 2 s. A loop comes "
        "near 1, a freeze and a steady change to 0.",
        "this project; the question is that of NoRepeat (Self-Forcing++)",
        digits=3,
    ),
    Measure(
        "latent_mean_drift",
        "Latent mean drift",
        "standard deviations",
        "lower",
        "Per-channel means of the latents in the last 15 % of the chunks against the first 15 %: root mean square over "
        "channels of the difference over the first standard deviation.",
        "this project",
        needs="latents",
        digits=3,
    ),
    Measure(
        "latent_std_drift",
        "Latent spread drift",
        "log ratio",
        "lower",
        "Per-channel standard deviations of the latents, last 15 % of the chunks against the first 15 %: root mean "
        "square over channels of the logarithm of their ratio.",
        "this project",
        needs="latents",
        digits=3,
    ),
    Measure(
        "clip_text",
        "CLIP text score",
        "100 times cosine",
        "higher",
        "CLIP's cosine between a frame and the text in force for its chunk, every half second of new video: mean over "
        "windows of two seconds of their means.",
        "Hessel et al. 2021, without its factor; per window against that window's prompt",
        needs="clip",
    ),
    Measure(
        "clip_text_drift",
        "CLIP text score, drift",
        "100 times cosine",
        "lower",
        "Absolute difference between the first and the last 15 % of the two-second windows.",
        "HeliosBench (semantic drift)",
        needs="clip",
    ),
    Measure(
        "clip_consistency",
        "CLIP consistency",
        "0 to 1",
        "higher",
        "CLIP image features every half second: mean of the cosines to the picture before and to the first, negative "
        "ones counted 0. Falls with motion: read it beside the motion amplitude.",
        "VBench background consistency, VBench-Long's sampling of few frames",
        needs="clip",
        digits=4,
    ),
    Measure(
        "dino_consistency",
        "DINO consistency",
        "0 to 1",
        "higher",
        "The same with DINO's class token.",
        "VBench subject consistency",
        needs="dino",
        digits=4,
    ),
    *(
        Measure(
            f"vbench_{dimension}",
            f"VBench {dimension.replace('_', ' ')}",
            "0 to 1",
            "higher",
            f"VBench's {dimension} by its own package: mean over the new video in pieces of two seconds.",
            "VBench; PA-VDM, table 1",
            needs="vbench",
            digits=4,
        )
        for dimension in VBENCH_DIMENSIONS
    ),
    Measure(
        "fvd",
        "FVD",
        "squared distance",
        "lower",
        "Frechet distance of I3D features between all two-second windows of a method and those of real videos; one "
        "number for a method. Stable from some hundreds of windows on; compare it only within one report.",
        "Unterthiner et al. 2018; PA-VDM, table 1 (there with VideoMAE-v2 features)",
        needs="fvd",
        digits=1,
    ),
)

# Series whose charts begin at 0: there it is a value that means something.
FROM_ZERO = ("difference", "motion", "fast_motion", "warp_error")
STATISTIC_SERIES = tuple(measure.key for measure in SERIES if measure.key != "difference")


def find(key: str) -> Measure:
    """The measure behind a key of `Measurements.summary`: a scalar's own, or `series.statistic`."""
    series, _, statistic = key.partition(".")
    if not statistic:
        return next(measure for measure in SCALARS if measure.key == key)
    of, how = next(m for m in SERIES if m.key == series), next(m for m in STATISTICS if m.key == statistic)
    unit = {"slope": f"{of.unit}, per minute", "weighted_error": "none"}.get(statistic, of.unit)
    better: Better = of.better if statistic == "mean" else how.better
    digits = 2 if statistic == "weighted_error" else of.digits + (statistic != "mean")
    definition = of.definition if statistic == "mean" else f"Of {of.name.lower()}: {how.definition}"
    return Measure(key, f"{of.name}, {how.name}", unit, better, definition, how.source, of.needs, digits)


def summary_keys() -> list[str]:
    """Every key that `Measurements.summary` can have, in the order in which tables show them."""
    return [m.key for m in SCALARS] + [f"{series}.{how.key}" for series in STATISTIC_SERIES for how in STATISTICS]


def by_reason(missing: Mapping[str, str]) -> dict[str, list[str]]:
    """Reason -> names of the measures that are missing for it, each once, without its statistics."""
    found: dict[str, list[str]] = {}
    for key, reason in missing.items():
        name = find(key).name.split(", ")[0]
        if name not in found.setdefault(reason, []):
            found[reason].append(name)
    return found
