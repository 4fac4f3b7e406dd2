"""`pavdm train --what text-encoder`: masking, learning, and files that TextEncoder loads with their tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from pavdm import cli
from pavdm.errors import InputError
from pavdm.models.text_encoder import TextEncoder
from pavdm.options import parser
from pavdm.training.chance import generator_for
from pavdm.training.task import Share
from pavdm.training.text_encoder.objective import IGNORED, masked_tokens
from pavdm.training.text_encoder.options import plan
from pavdm.training.text_encoder.task import TextTask

SHAPE = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}
CAPTIONS = [
    f"a {colour} {shape} {verb}" for colour in ("red", "blue") for shape in ("ring", "star") for verb in ("a", "b")
]


@pytest.fixture
def task(tmp_path: Path) -> TextTask:
    return TextTask(CAPTIONS, SHAPE, scratch=tmp_path, vocab_size=280, batch_size=3, seed=1)


def test_masked_words_are_the_targets_and_the_end_of_text_is_never_one():
    tokens = [[7, 8, 9, 10, 1], [5, 1], [1]]
    batch = masked_tokens(tokens, 3, 0, [generator_for(i) for i in range(3)])
    ids, targets = batch["input_ids"], batch["targets"]
    masked = targets != IGNORED
    assert torch.equal(
        torch.where(masked, targets, ids), torch.tensor([[7, 8, 9, 10, 1], [5, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    )
    assert bool((ids[masked] == 3).all())
    assert masked.sum(1).tolist()[1:] == [1, 0] and masked[0].any() and not masked[0, 4]
    assert batch["attention_mask"].sum(1).tolist() == [5, 2, 1]


def test_a_step_is_the_same_however_it_is_divided(task: TextTask):
    two = [task.examples(Share(rank, 2))[4]["input_ids"] for rank in (0, 1)]
    halves = [task.examples(Share(accumulation=2))[index]["input_ids"] for index in (8, 9)]
    assert all(torch.equal(a, b) for a, b in zip(two, halves, strict=True))


def test_the_loss_of_a_batch_is_the_mean_of_its_parts_however_many_words_they_hide(task: TextTask):
    tokens = [[7, 8, 9, 10, 11, 12, 13, 14, 15, 1], [5, 1], [20, 21, 1], [9, 1]]

    def loss(first: int, end: int) -> float:
        generators = [generator_for("many", number) for number in range(first, end)]
        return float(task.objective(masked_tokens(tokens[first:end], 3, 0, generators))[0].detach())

    assert (masked_tokens(tokens, 3, 0, [generator_for("many", i) for i in range(4)])["targets"] != IGNORED).sum() > 4
    assert loss(0, 4) == pytest.approx((loss(0, 2) + loss(2, 4)) / 2, rel=1e-5)


def test_the_loss_is_the_cross_entropy_of_the_masked_words_alone(task: TextTask):
    batch = task.examples(Share())[0]
    loss, _ = task.objective(batch)
    hidden = task.network(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    logits = hidden @ task.network.get_input_embeddings().weight.T / 32**0.5
    each = [
        F.cross_entropy(row, targets, ignore_index=IGNORED)
        for row, targets in zip(logits, batch["targets"], strict=True)
    ]
    assert float(loss.detach()) == pytest.approx(float(torch.stack(each).mean().detach()), rel=1e-5)


def prepared(tmp_path: Path, texts: list[str], *options: str) -> TextTask:
    (tmp_path / "t5.json").write_text(json.dumps(SHAPE), "utf-8")
    (tmp_path / "clips.csv").write_text("path,text\n" + "".join(f"x.mp4,{text}\n" for text in texts), "utf-8")
    command = ["train", "--what", "text-encoder", "--data", str(tmp_path / "clips.csv"), "--steps", "1", "--out", "run"]
    return plan(parser().parse_args([*command, "--config", str(tmp_path / "t5.json"), *options])).make()


def test_other_captions_are_another_run_and_another_place_is_not(tmp_path: Path):
    (tmp_path / "moved").mkdir()
    before = prepared(tmp_path, CAPTIONS).settings()
    assert prepared(tmp_path / "moved", CAPTIONS).settings() == before
    assert prepared(tmp_path, [*CAPTIONS[:-1], "a green star b"]).settings() != before
    assert prepared(tmp_path, CAPTIONS, "--aesthetic", "6").settings() != before


def test_captions_of_which_nothing_is_left_are_not_trained_on(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    assert prepared(tmp_path, ["a red ring", "一只猫"]).settings()["data"]["captions"] == 1
    assert "1 captions are left out" in caplog.text
    with pytest.raises(InputError, match="none of the 1 captions"):
        prepared(tmp_path, ["一只猫"])


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--first-seed", "999999999", "--clips", "3"], "of both kinds"),
        (["--first-seed", "-1"], "seeds from 0 on"),
        (["--clips", "0"], "at least 1 clip"),
    ],
)
def test_captions_of_the_world_are_those_that_it_gives_for_training(tmp_path: Path, typed: list[str], said: str):
    with pytest.raises(InputError, match=said):
        prepared(tmp_path, [], "--data", "world", *typed)


def test_the_command_learns_words_and_the_encoder_loads(tmp_path: Path):
    (tmp_path / "clips.csv").write_text("path,text\n" + "".join(f"x.mp4,{text}\n" for text in CAPTIONS), "utf-8")
    (tmp_path / "t5.json").write_text(json.dumps(SHAPE), "utf-8")
    out = tmp_path / "run"
    command = ["train", "--what", "text-encoder", "--data", str(tmp_path / "clips.csv"), "--out", str(out)]
    command += ["--config", str(tmp_path / "t5.json"), "--steps", "80", "--batch-size", "16", "--warmup", "5"]
    command += ["--learning-rate", "1e-2", "--workers", "0", "--cpu", "--quiet", "--ema", "0", "--vocabulary", "300"]
    assert cli.main(command) == 0
    losses = [json.loads(line)["loss"] for line in (out / "loss.jsonl").read_text().splitlines()]
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
    encoder = TextEncoder.load(next(out.glob("step-*")) / "model", "cpu", torch.float32)
    one, other = encoder.encode(["a red ring a", "a blue ring a"])
    assert one.shape == other.shape and one.shape[1] == 32 and len(one) == 5  # four words, each a token, and the end
    assert not torch.allclose(one, other)
