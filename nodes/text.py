"""Load Text Encoder: a T5 of any size, with its own tokenizer, behind the host's CLIP.

For T5 v1.1 XXL the stock Load CLIP, type pixart, gives the same; this node is for other sizes and for T5 as it is
published, in a folder with its tokenizer.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.sd
import comfy.sd1_clip
import comfy.text_encoders.sd3_clip
import comfy.text_encoders.t5
import comfy.utils
import folder_paths
from comfy_api.latest import io

from pavdm.errors import InputError
from pavdm.models.t5_config import T5Shape, read_t5
from pavdm.models.text_encoder import TOKENIZER_FILES, read_tokenizer

from .host import model_file, schema

logger = logging.getLogger(__name__)

T5_VOCABULARY = 32128
PADDING = 128  # vocabularies are rounded up to a multiple of it
NAME = "t5xxl"  # under which the host's own T5 encoders keep their tokens, whatever their size


class T5Model(comfy.sd1_clip.SDClipModel):
    def __init__(self, shape: T5Shape, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
        config = {
            "d_model": shape.d_model,
            "d_kv": shape.d_kv,
            "d_ff": shape.d_ff,
            "num_layers": shape.num_layers,
            "num_heads": shape.num_heads,
            "vocab_size": shape.vocab_size,
            "dense_act_fn": "gelu_pytorch_tanh" if shape.gated else "relu",
            "is_gated_act": shape.gated,
            "model_type": "t5",
        }
        super().__init__(
            device=device,
            dtype=dtype,
            textmodel_json_config=config,
            special_tokens={"end": 1, "pad": 0},
            model_class=comfy.text_encoders.t5.T5,
            model_options={**(model_options or {}), "model_name": NAME},
        )


class T5TextModel(comfy.sd1_clip.SD1ClipModel):
    def __init__(self, shape: T5Shape, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
        super().__init__(
            device=device,
            dtype=dtype,
            name=NAME,
            clip_model=partial(T5Model, shape),
            model_options=model_options or {},
        )


class T5Tokenizer(comfy.sd1_clip.SDTokenizer):
    """Unpadded tokens: STDiT3 reads the real ones only."""

    def __init__(
        self, tokenizer: Any, d_model: int, embedding_directory: Any = None, tokenizer_data: Any = None
    ) -> None:
        super().__init__(
            "",  # nothing is read: it is there
            tokenizer_class=SimpleNamespace(from_pretrained=lambda _: tokenizer),
            embedding_directory=embedding_directory,
            embedding_size=d_model,
            embedding_key=NAME,
            pad_with_end=False,
            has_start_token=False,
            pad_to_max_length=False,
            max_length=99999999,
            min_length=1,
            tokenizer_data=tokenizer_data or {},
        )


class T5TextTokenizer(comfy.sd1_clip.SD1Tokenizer):
    def __init__(
        self, tokenizer: Any, d_model: int, embedding_directory: Any = None, tokenizer_data: Any = None
    ) -> None:
        super().__init__(
            embedding_directory=embedding_directory,
            tokenizer_data=tokenizer_data or {},
            clip_name=NAME,
            tokenizer=partial(T5Tokenizer, tokenizer, d_model),
        )


def tokenizer_of(path: Path, vocab_size: int) -> Any:
    """The tokenizer in the folder of the T5 in `path` if it has the vocabulary of that, else the host's own, which is
    every published T5's: several encoders may lie in one folder.

    Raises InputError if neither fits.
    """
    folder = path.parent
    if any((folder / name).is_file() for name in TOKENIZER_FILES):
        tokenizer = read_tokenizer(folder)
        if 0 <= vocab_size - len(tokenizer) < PADDING:
            return tokenizer
        logger.info("the tokenizer in %s has %d tokens: not that of %s", folder, len(tokenizer), path.name)
    if vocab_size != T5_VOCABULARY:
        raise InputError(
            f"{path} has a vocabulary of its own ({vocab_size} tokens), so it needs its tokenizer: put both into a "
            f"folder of their own, with its {' or '.join(TOKENIZER_FILES)}"
        )
    return read_tokenizer(Path(comfy.text_encoders.sd3_clip.__file__).parent / "t5_tokenizer")


def load_text_encoder(path: str) -> Any:
    """The host's CLIP around the T5 in `path`, a file or one shard of a set.

    Raises InputError for a file that is no T5 encoder, or that has no tokenizer (see `tokenizer_of`).
    """
    shape, state = read_t5(path)
    tokenizer = tokenizer_of(Path(path), shape.vocab_size)
    target = SimpleNamespace(
        params={},
        clip=partial(T5TextModel, shape),
        tokenizer=partial(T5TextTokenizer, tokenizer, shape.d_model),
    )
    options = {"dtype": comfy.utils.weight_dtype(state)}
    clip = comfy.sd.CLIP(target, parameters=comfy.utils.calculate_parameters(state), model_options=options)
    clip.load_sd(state)
    return clip


class LoadTextEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PAVDM_LoadTextEncoder",
            display_name="Load Text Encoder (T5)",
            description="Loads a T5 text encoder of any size with its tokenizer as a CLIP. For a single-file T5 v1.1 "
            "XXL the stock Load CLIP, type pixart, works as well.",
            search_aliases=["t5", "clip loader"],
            inputs=[
                io.Combo.Input(
                    "text_encoder_name",
                    options=folder_paths.get_filename_list("text_encoders"),
                    tooltip="File in models/text_encoders, or any one shard of a set in a folder of its own. The "
                    "published models read T5 v1.1 XXL.",
                ),
            ],
            outputs=[io.Clip.Output(display_name="clip", tooltip="For Encode Prompt, or the stock CLIP Text Encode.")],
        )

    @classmethod
    def execute(cls, text_encoder_name: str) -> io.NodeOutput:
        return io.NodeOutput(load_text_encoder(model_file("text_encoders", text_encoder_name)))
