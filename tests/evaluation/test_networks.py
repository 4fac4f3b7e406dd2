"""Measures by networks: tiny random ones made here, and a stand-in for the package vbench."""

import json
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTModel,
)

from pavdm.cli import main
from pavdm.errors import InputError
from pavdm.evaluation import fvd, measure
from pavdm.evaluation.fvd import frechet_distance
from pavdm.evaluation.networks import Encoder, consistency, load_clip, load_dino, text_of_frame, with_networks
from pavdm.evaluation.vbench import FILES, with_vbench
from pavdm.prompts import PromptSchedule
from pavdm.video_reader import probe
from pavdm.video_writer import VideoWriter

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A random CLIP with a tokenizer that knows single letters."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    words = {token: i for i, token in enumerate([*letters, *(f"{letter}</w>" for letter in letters)])}
    words |= {"<|startoftext|>": len(words), "<|endoftext|>": len(words) + 1}
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    text = CLIPTextConfig(**small, vocab_size=len(words), max_position_embeddings=16, **ends)
    vision = CLIPVisionConfig(**small, image_size=32, patch_size=8)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 16})
    )
    return folder


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    return folder


@pytest.fixture
def video(tmp_path, moving):
    """5 s, the first 17 frames the clip, a new text at the fourth new chunk."""
    record = {"chunk_frames": 17, "clip_frames": 17, "prompt": "|0| a |3| b"}
    path = tmp_path / "v.mp4"
    with VideoWriter(path, (64, 96), 24, {"pavdm": json.dumps(record)}) as writer:
        writer.write(moving(120))
    return path


def test_what_networks_measure_comes_into_the_report_and_leaves_the_list_of_what_is_missing(
    video, clip_folder, dino_folder, tmp_path
):
    arguments = ["eval", video, "--out", tmp_path / "r", "--clip", clip_folder, "--dino", dino_folder]
    assert main([str(argument) for argument in arguments]) == 0
    (found,) = json.loads((tmp_path / "r" / "report.json").read_text())["videos"]
    assert -100 <= found["summary"]["clip_text"] <= 100
    assert 0.5 < found["summary"]["dino_consistency"] <= 1
    assert 0.5 < found["summary"]["clip_consistency"] <= 1
    assert not {"clip_text", "clip_text_drift", "dino_consistency", "clip_consistency"} & found["missing"].keys()
    assert "fvd" in found["missing"]


def test_a_frame_is_scored_against_the_text_of_its_chunk(video):
    found = measure(video)
    schedule = PromptSchedule.parse(found.record["prompt"])
    switch = 17 + 3 * 17
    assert text_of_frame(found, schedule, switch - 1) == "a"
    assert text_of_frame(found, schedule, switch) == "b"


def test_the_chunk_of_a_text_is_the_samplers_and_not_that_of_the_measures(video):
    """With chunks of 1 latent a text of chunk 3 begins with latent 3, which codes the frames 9 to 12."""
    found = measure(video, chunk_frames=34)
    for latents, switch in ((1, 9), (5, 3 * 17), (10, 3 * 34)):
        own = replace(found, record={**found.record, "chunk_latents": latents})
        schedule = PromptSchedule.parse("|0| a |3| b")
        assert text_of_frame(own, schedule, 17 + switch - 1) == "a"
        assert text_of_frame(own, schedule, 17 + switch) == "b"
        assert text_of_frame(own, schedule, 0) == "a"


@pytest.mark.parametrize("content", ["not JSON", "[]", '{"image_mean": "red"}', '{"image_std": [1]}'])
def test_a_damaged_list_of_colours_is_refused(dino_folder, tmp_path, content):
    folder = tmp_path / "dino"
    shutil.copytree(dino_folder, folder)
    (folder / "preprocessor_config.json").write_text(content)
    with pytest.raises(InputError, match=r"preprocessor_config\.json cannot be read"):
        load_dino(folder, CPU)


def test_what_the_networks_cannot_do_is_refused_before_anything_is_measured(video, clip_folder, tmp_path, capsys):
    arguments = ["eval", str(video), "--out", str(tmp_path / "r"), "--clip", str(clip_folder)]
    for options, message in ((["--device", "gpu"], "'gpu' cannot be used here"), (["--vbench"], "pip install vbench")):
        assert main([*arguments, *options]) == 2
        said = capsys.readouterr()
        assert message in said.err and "[1/1]" not in said.out


class Letters(Encoder):
    """Pictures and the text "a" are one unit vector, every other text the opposite one."""

    def images(self, frames):
        return torch.tensor([[1.0, 0.0]]).expand(len(frames), 2)

    def text(self, text):
        return torch.tensor([1.0 if text == "a" else -1.0, 0.0])


def test_the_text_score_is_the_mean_over_windows_of_each_against_its_own_text(video):
    encoder = Letters(None, None, 0, torch.zeros(3), torch.zeros(3), CPU)
    summary = with_networks(measure(video), video, encoder, None).summary
    # Half seconds 0 to 8 of new video; the text changes at 51 / 24 s, so that from number 5 on it is the other one.
    # Windows of 2 s: 0-3 are 100, 4-7 are (100 - 300) / 4, 8 is -100.
    assert summary["clip_text"] == pytest.approx((100 - 50 - 100) / 3)
    assert summary["clip_consistency"] == 1
    always = with_networks(measure(video), video, encoder, None, prompt="a").summary
    assert (always["clip_text"], always["clip_text_drift"]) == (100, None)  # three windows have no 15 %


def test_clip_features_are_those_of_transformers_own_preprocessing(clip_folder, moving):
    """On a square picture of the network's size there is nothing to scale: only colours are normalised."""
    frame = moving(1)[0, :32, :32]
    model = CLIPModel.from_pretrained(clip_folder)
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    pixels = torch.tensor(((frame / 255 - mean) / std).transpose(2, 0, 1)[None], dtype=torch.float32)
    with torch.inference_mode():
        expected = model(pixel_values=pixels, input_ids=torch.tensor([[52, 0, 53]])).image_embeds[0]
    assert torch.allclose(load_clip(clip_folder, CPU).images([frame])[0], expected, atol=1e-4)


def test_consistency_is_the_mean_of_both_cosines():
    right, up, left = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([-1.0, 0.0])
    assert consistency(torch.stack([right, right, right])) == 1
    assert consistency(torch.stack([right, up, up])) == pytest.approx((0 + (1 + 0) / 2) / 2)
    assert consistency(torch.stack([right, left])) == 0
    assert consistency(right[None]) is None


def test_without_a_prompt_the_text_score_asks_for_one(moving, tmp_path, clip_folder):
    path = tmp_path / "plain.mp4"
    with VideoWriter(path, (64, 96), 24) as writer:
        writer.write(moving(48))
    found = with_networks(measure(path), path, load_clip(clip_folder, CPU), None)
    assert "--prompt" in found.missing["clip_text"]
    assert found.summary["clip_consistency"] is not None


@pytest.mark.parametrize("load", [load_clip, load_dino])
def test_a_folder_without_a_model_is_refused(load, tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        load(tmp_path / "no", CPU)
    with pytest.raises(InputError, match="does not hold"):
        load(tmp_path, CPU)


@pytest.mark.parametrize("lost", ["visual_projection.", "text_model."])
def test_a_clip_that_lacks_weights_is_refused_and_not_measured_with_random_ones(clip_folder, tmp_path, lost):
    folder = tmp_path / "clip"
    shutil.copytree(clip_folder, folder)
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith(lost)}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=rf"its weights lack \d+ tensors, such as {lost}"):
        load_clip(folder, CPU)


def test_a_pooler_is_not_needed(tmp_path):
    config = ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32)
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    assert load_dino(tmp_path, CPU).images([np.zeros((40, 60, 3), np.uint8)]).shape == (1, 32)


def test_another_kind_of_network_is_refused(clip_folder, dino_folder):
    with pytest.raises(InputError, match=r"does not hold a DINO model .* says 'clip'"):
        load_dino(clip_folder, CPU)
    with pytest.raises(InputError, match=r"does not hold a CLIP model .* says 'dinov2'"):
        load_clip(dino_folder, CPU)


def test_frechet_distance_of_known_gaussians():
    """Closed form for independent channels: (m1 - m2)^2 + (s1 - s2)^2 each."""
    draw = np.random.default_rng(0).standard_normal((40000, 2))
    draw = (draw - draw.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(draw, rowvar=False))).T
    other = draw * (3, 1) + (2, 0)
    assert frechet_distance(other, draw) == pytest.approx(2**2 + (3 - 1) ** 2, rel=1e-6)
    assert frechet_distance(draw, draw) == pytest.approx(0, abs=1e-9)
    with pytest.raises(InputError, match="at least two windows"):
        frechet_distance(draw[:1], draw)


class MeanColour(torch.nn.Module):
    """In I3D's place: the mean colour of a window."""

    def forward(self, x: torch.Tensor, rescale: bool, resize: bool, return_features: bool) -> torch.Tensor:
        return x.mean(dim=[2, 3, 4])


def test_fvd_sees_which_method_is_nearer_to_the_real_videos(moving, tmp_path, capsys, monkeypatch):
    torch.jit.script(MeanColour()).save(str(tmp_path / "i3d.pt"))
    for name, shift in (("real", 0), ("near", 5), ("far", 60)):
        frames = (np.concatenate([moving(48, seed=seed) for seed in (1, 2, 3)]) // 2 + shift).astype(np.uint8)
        with VideoWriter(tmp_path / f"{name}.mp4", (64, 96), 24) as writer:
            writer.write(frames)
    arguments = ["eval", tmp_path / "near.mp4", tmp_path / "far.mp4", "--out", tmp_path / "r"]
    arguments += ["--i3d", tmp_path / "i3d.pt", "--real", tmp_path / "real.mp4"]
    assert main([str(argument) for argument in arguments]) == 0
    estimates = json.loads((tmp_path / "r" / "report.json").read_text())["comparison"]["estimates"]["fvd"]
    assert estimates["near"]["mean"] == pytest.approx(3 * (5 / 127.5) ** 2, rel=0.3)
    assert estimates["far"]["mean"] == pytest.approx(3 * (60 / 127.5) ** 2, rel=0.1)
    with VideoWriter(tmp_path / "short.mp4", (64, 96), 24) as writer:
        writer.write(moving(60))  # one window of two seconds has no spread
    short = [*arguments[:2], tmp_path / "short.mp4", *arguments[3:], "--overwrite"]
    assert main([str(argument) for argument in short]) == 1
    data = json.loads((tmp_path / "r" / "report.json").read_text())
    assert data["comparison"]["estimates"]["fvd"].keys() == {"near"}
    assert "at least two windows" in data["failed"]["FVD of short"]
    assert main([str(a) for a in arguments[:-2]] + ["--overwrite"]) == 2
    assert "both" in capsys.readouterr().err

    def without_end(*_):
        raise np.linalg.LinAlgError("Eigenvalues did not converge")

    monkeypatch.setattr(fvd, "frechet_distance", without_end)
    assert main([str(argument) for argument in [*arguments, "--overwrite"]]) == 1
    data = json.loads((tmp_path / "r" / "report.json").read_text())
    assert len(data["videos"]) == 2 and data["failed"]["FVD of near"] == "Eigenvalues did not converge"


def test_another_torchscript_is_no_i3d(video, tmp_path, capsys):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "other.pt"))
    arguments = ["eval", video, "--out", tmp_path / "r", "--i3d", tmp_path / "other.pt", "--real", video]
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert "does not work as StyleGAN-V's I3D does" in said and "Traceback" not in said


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """A module in vbench's place that scores by counting its pieces, and an empty cache folder."""
    seen = {}

    class VBench:
        def __init__(self, device, full_info_dir, output_path):
            self.output = Path(output_path)

        def evaluate(self, videos_path, name, dimension_list, local, mode):
            pieces = sorted(Path(videos_path).iterdir())
            seen.update(pieces=[probe(piece).num_frames for piece in pieces], local=local, mode=mode)
            self.output.mkdir()
            results = {dimension: [len(pieces) / 10, []] for dimension in dimension_list}
            (self.output / f"{name}_eval_results.json").write_text(json.dumps(results))

    module = types.ModuleType("vbench")
    module.VBench = VBench
    module.__spec__ = types.SimpleNamespace(name="vbench")
    monkeypatch.setitem(sys.modules, "vbench", module)
    monkeypatch.setenv("VBENCH_CACHE_DIR", str(tmp_path / "cache"))
    return seen


def test_vbench_runs_on_two_second_pieces_of_new_video_where_its_weights_are_there(video, stand_in, tmp_path):
    for name in FILES["imaging_quality"]:
        (tmp_path / "cache" / name).parent.mkdir(parents=True)
        (tmp_path / "cache" / name).touch()
    found = with_vbench(measure(video), video, "cpu")
    assert stand_in == {"pieces": [48, 48], "local": True, "mode": "custom_input"}  # 103 new frames; 7 are too few
    assert found.summary["vbench_imaging_quality"] == 0.2
    assert "vbench_imaging_quality" not in found.missing
    assert "raft-things.pth" in found.missing["vbench_dynamic_degree"]


def test_what_vbench_runs_into_costs_only_its_own_numbers(video, stand_in, tmp_path, monkeypatch, capsys):
    for name in FILES["imaging_quality"]:
        (tmp_path / "cache" / name).parent.mkdir(parents=True)
        (tmp_path / "cache" / name).touch()

    def evaluate(bench, **options):
        raise RuntimeError("a kernel is not there")

    monkeypatch.setattr(sys.modules["vbench"].VBench, "evaluate", evaluate)
    assert main(["eval", str(video), "--vbench", "--out", str(tmp_path / "r")]) == 1
    (found,) = json.loads((tmp_path / "r" / "report.json").read_text())["videos"]
    assert found["summary"]["seam_ratio"] is not None
    assert f"failed: the networks' measures of {video}: a kernel is not there" in capsys.readouterr().out


def test_vbench_is_not_even_started_where_it_would_fetch_something(video, stand_in):
    found = with_vbench(measure(video), video, "cpu")
    assert stand_in == {}
    assert len([key for key in found.missing if key.startswith("vbench_")]) == len(FILES) == 6


def test_without_the_package_vbench_is_refused(video):
    with pytest.raises(InputError, match="pip install vbench"):
        with_vbench(measure(video), video, "cpu")
