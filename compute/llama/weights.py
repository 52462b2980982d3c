"""Reading a model's folder: Hugging Face ``config.json``, safetensors, and int8 ``npz`` with one scale a row."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

MAX_HEADER_BYTES = 100 << 20
"""A safetensors header: the format's own limit."""


class ModelError(Exception):
    """The folder does not hold a model that this engine can run; the message says what is missing or unsupported."""


@dataclass(frozen=True)
class LlamaConfig:
    """Architecture parameters, under the names of Hugging Face's ``LlamaConfig``."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    max_position_embeddings: int
    tie_word_embeddings: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    rope_scaling: dict[str, Any] | None = None

    @classmethod
    def load(cls, folder: Path) -> LlamaConfig:
        """Read ``config.json``. Raises :class:`ModelError` for other architectures and for unsupported options."""
        try:
            raw = json.loads((folder / "config.json").read_text())
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder}/config.json cannot be read: {error}") from error
        if raw.get("model_type") != "llama":
            raise ModelError(f"{folder} holds a {raw.get('model_type')!r} model; this engine runs 'llama' models")
        for option in ("attention_bias", "mlp_bias"):
            if raw.get(option):
                raise ModelError(f"{folder}: {option} is not supported")
        rope = raw.get("rope_parameters") or raw.get("rope_scaling")
        kind = "default" if rope is None else rope.get("rope_type", rope.get("type", "default"))
        if kind not in ("default", "llama3"):
            raise ModelError(f"{folder}: rope scaling {kind!r} is not supported")
        eos = raw.get("eos_token_id")
        heads = int(raw["num_attention_heads"])
        try:
            return cls(
                vocab_size=int(raw["vocab_size"]),
                hidden_size=int(raw["hidden_size"]),
                intermediate_size=int(raw["intermediate_size"]),
                num_hidden_layers=int(raw["num_hidden_layers"]),
                num_attention_heads=heads,
                num_key_value_heads=int(raw.get("num_key_value_heads") or heads),
                head_dim=int(raw.get("head_dim") or int(raw["hidden_size"]) // heads),
                rms_norm_eps=float(raw["rms_norm_eps"]),
                rope_theta=float(raw.get("rope_theta") or (rope or {}).get("rope_theta") or 10_000.0),
                max_position_embeddings=int(raw["max_position_embeddings"]),
                tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
                bos_token_id=raw.get("bos_token_id"),
                eos_token_ids=tuple(eos) if isinstance(eos, list) else () if eos is None else (int(eos),),
                rope_scaling=rope if kind == "llama3" else None,
            )
        except KeyError as error:
            raise ModelError(f"{folder}/config.json lacks {error}") from error


def rope_tables(config: LlamaConfig, length: int) -> tuple[Array, Array]:
    """Cosines and sines of the rotary embedding, (length, head_dim) each (Su et al. 2021; Llama 3.1's scaling)."""
    frequencies = 1.0 / config.rope_theta ** (np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim)
    if scaling := config.rope_scaling:
        factor, low, high = (float(scaling[k]) for k in ("factor", "low_freq_factor", "high_freq_factor"))
        original = float(scaling["original_max_position_embeddings"])
        wavelength = 2 * math.pi / frequencies
        smooth = np.clip((original / wavelength - low) / (high - low), 0.0, 1.0)
        frequencies = (1 - smooth) * frequencies / factor + smooth * frequencies
    angles = np.outer(np.arange(length), frequencies)
    angles = np.concatenate([angles, angles], axis=1)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def weight_files(folder: Path) -> list[Path]:
    """The files that hold weights, in a fixed order."""
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.npz"))
    if not files:
        raise ModelError(f"{folder} holds no *.safetensors and no *.npz weights")
    return files


def weights_hash(folder: Path) -> str:
    """SHA-256 (hex) over the weight files, in the order of their names: names the weights in a capability."""
    digest = hashlib.sha256()
    for path in weight_files(folder):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def load_weights(folder: Path) -> dict[str, Array]:
    """All tensors as float32, by their Hugging Face names. Raises :class:`ModelError`."""
    tensors: dict[str, Array] = {}
    for path in weight_files(folder):
        try:
            tensors |= _load_npz(path) if path.suffix == ".npz" else _load_safetensors(path)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{path} cannot be read: {error}") from error
    return tensors


def _load_npz(path: Path) -> dict[str, Array]:
    """``name.q`` int8 (rows, columns) times ``name.s`` (rows); other entries as they are. Pickles are refused."""
    tensors: dict[str, Array] = {}
    with np.load(path, allow_pickle=False) as archive:
        for name in archive.files:
            if name.endswith(".q"):
                scale = archive[name[:-2] + ".s"].astype(np.float32)
                tensors[name[:-2]] = archive[name].astype(np.float32) * scale[:, None]
            elif not name.endswith(".s"):
                tensors[name] = archive[name].astype(np.float32)
    return tensors


def _load_safetensors(path: Path) -> dict[str, Array]:
    """The safetensors format: u64 header length, JSON header, raw little-endian data. BF16, F16 and F32 are read."""
    tensors: dict[str, Array] = {}
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if header_bytes > MAX_HEADER_BYTES:
            raise ValueError("the header is too long")
        header = json.loads(file.read(header_bytes))
        base = 8 + header_bytes
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            file.seek(base + begin)
            raw = file.read(end - begin)
            if entry["dtype"] == "BF16":
                flat = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
            elif entry["dtype"] in ("F16", "F32"):
                flat = np.frombuffer(raw, "<f2" if entry["dtype"] == "F16" else "<f4").astype(np.float32)
            else:
                raise ValueError(f"{name} has the unsupported type {entry['dtype']}")
            tensors[name] = flat.reshape(entry["shape"])
    return tensors
