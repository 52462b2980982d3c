"""Write the trained model as a folder to serve: ``python -m compute.training.export TRAINED_DIR MODEL_DIR``.

Weights become int8 with one float16 scale a row (``model.npz``); norms stay float16. The folder has the file names and
tensor names of a Hugging Face Llama, so that other programs can read it after dequantising.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compute.training.train import CONTEXT, EPS, FFN, HEADS, LAYERS, ROPE_THETA, SPECIALS

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
HISTORY_TOKENS = 192
"""Older turns are left out beyond this: the model saw rows of 256 tokens, and an answer takes up to 64."""


def hugging_face_name(name: str) -> str:
    """The name of one of our parameters in a Hugging Face Llama checkpoint."""
    parts = name.split(".")
    if parts[0] == "layers" and parts[2] in ATTENTION:
        parts.insert(2, "self_attn")
    elif parts[0] == "layers" and parts[2] in FEED_FORWARD:
        parts.insert(2, "mlp")
    return ".".join(["model", *parts])


def quantise(state: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """int8 rows and float16 scales of the matrices, float16 of the rest."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, tensor in state.items():
        value = tensor.float().numpy()
        target = hugging_face_name(name)
        if value.ndim == 2:
            # The scale is rounded to float16 first, so that the stored integers fit the stored scale.
            scale = (np.abs(value).max(1) / 127).astype(np.float16)
            steps = np.round(value / scale[:, None].astype(np.float32))
            arrays[target + ".q"] = np.clip(steps, -127, 127).astype(np.int8)
            arrays[target + ".s"] = scale
        else:
            arrays[target] = value.astype(np.float16)
    return arrays


def main() -> None:
    """Write ``model.npz``, ``config.json``, ``chat.json`` and ``tokenizer.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trained", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    state = torch.load(args.trained / "demo.pt", weights_only=True)
    np.savez_compressed(args.out / "model.npz", allow_pickle=False, **quantise(state))
    vocab, dim = state["embed_tokens.weight"].shape
    ids = {name: index for index, name in enumerate(SPECIALS)}
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocab, "hidden_size": dim,
        "intermediate_size": FFN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS, "head_dim": dim // HEADS, "max_position_embeddings": CONTEXT, "rms_norm_eps": EPS,
        "rope_theta": ROPE_THETA, "tie_word_embeddings": True, "hidden_act": "silu", "bos_token_id": ids["<|bos|>"],
        "eos_token_id": [ids["<|end|>"], *sorted(set(ids.values()) - {ids["<|end|>"]})], "pad_token_id": ids["<|pad|>"],
    }  # fmt: skip
    (args.out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    roles = ("system", "user", "assistant")
    chat = {
        "begin": ["<|bos|>"],
        "turns": {role: [[f"<|{role}|>"], ["<|end|>"]] for role in roles},
        "answer": ["<|assistant|>"],
        "stop": ["<|end|>"],
        "max_prompt_tokens": HISTORY_TOKENS,
    }
    (args.out / "chat.json").write_text(json.dumps(chat, indent=1) + "\n")
    shutil.copyfile(args.trained / "tokenizer.json", args.out / "tokenizer.json")
    for path in sorted(args.out.iterdir()):
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
