"""The curves as a picture, and the numbers as text."""

import re

import numpy as np
import torch

from pavdm.evaluation import measure
from pavdm.evaluation.curves import describe_latents, describe_video, draw_latents, draw_video
from pavdm.evaluation.latents import latent_statistics

BAD, LINE, CLIP = (190, 52, 40), (11, 102, 168), (236, 238, 243)


def colours(picture):
    return {tuple(colour) for colour in np.asarray(picture).reshape(-1, 3).tolist()}


def test_a_seam_is_drawn_red_and_the_clip_shaded(still):
    frames = still(60)
    frames[34:] = np.minimum(frames[34:], 225) + 30
    frames[1::2] += 1
    found = measure(frames, chunk_frames=17, clip_frames=17)
    assert {BAD, CLIP, LINE} <= colours(draw_video(found))
    clean = colours(draw_video(measure(still(60))))
    assert LINE in clean
    assert not {BAD, CLIP} & clean


def test_the_text_has_the_numbers_and_says_which_chunks_are_assumed(moving):
    found = measure(moving(40))
    text = describe_video(found)
    assert f"Luma, mean: {found.summary['luma.mean']:.1f} (levels)" in text
    assert "chunks of 17 frames are assumed" in text
    assert "--clip" not in text  # an option of the command, of no use where this text is shown
    assert "assumed" not in describe_video(measure(moving(40), chunk_frames=17))


def test_latents_have_a_picture_and_a_text_of_their_own():
    apart = torch.arange(4.0).reshape(1, 4, 1, 1, 1) * 1000  # so that the lines of the channels lie apart
    statistics = latent_statistics(torch.arange(1.0, 641.0).reshape(1, 1, 10, 8, 8) + apart)
    # Two chunks of 320 values each, rising: 320 apart, with a standard deviation of 320 / sqrt(12).
    assert "Latent mean drift: 3.464 (standard deviations)" in describe_latents(statistics)
    assert re.search(r"Latent spread drift: 0(\.000)? \(log ratio\)", describe_latents(statistics))
    assert LINE in colours(draw_latents(statistics))
