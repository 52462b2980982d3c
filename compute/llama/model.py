"""The forward pass of a Llama in numpy, batched, with a slot-based key-value cache.

One function serves prompt and decoding: ``n`` sequences advance by ``t`` tokens each. Sequences that decode together
occupy the first slots of the cache, so that a batch is a view and never a copy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compute.llama.weights import Array, LlamaConfig, ModelError, load_weights, rope_tables, weights_hash

__all__ = ["KvCache", "LlamaConfig", "LlamaModel", "ModelError", "weights_hash"]


class KvCache:
    """Keys and values of up to ``slots`` sequences: (layers, slots, kv heads, length, head_dim), float32.

    Zeroed pages that no token has reached are never touched: they cost address space and no memory. What a mask hides
    must still be finite, hence zeros and not whatever the memory held.
    """

    def __init__(self, config: LlamaConfig, slots: int, length: int) -> None:
        shape = (config.num_hidden_layers, slots, config.num_key_value_heads, length, config.head_dim)
        self.keys: Array = np.zeros(shape, np.float32)
        self.values: Array = np.zeros(shape, np.float32)
        self.lengths: NDArray[np.int64] = np.zeros(slots, np.int64)

    @property
    def capacity(self) -> int:
        """Tokens that a slot holds."""
        return int(self.keys.shape[3])

    def move(self, source: int, target: int) -> None:
        """Copy the sequence of slot ``source`` to slot ``target``."""
        used = int(self.lengths[source])
        self.keys[:, target, :, :used] = self.keys[:, source, :, :used]
        self.values[:, target, :, :used] = self.values[:, source, :, :used]
        self.lengths[target] = used

    def clear(self, slot: int) -> None:
        """Forget the sequence of a slot."""
        self.lengths[slot] = 0

    def advance(self, first: int, n: int, t: int) -> None:
        """Count ``t`` tokens more in slots ``first`` to ``first + n``, after all layers have run."""
        self.lengths[first : first + n] += t


class LlamaModel:
    """Weights of a Llama and its forward pass. All arrays are float32."""

    def __init__(self, config: LlamaConfig, tensors: dict[str, Array]) -> None:
        self.config = config
        try:
            self.embedding = np.ascontiguousarray(tensors["model.embed_tokens.weight"])
            self._final_norm = tensors["model.norm.weight"]
            head = self.embedding if config.tie_word_embeddings else tensors["lm_head.weight"]
            self._head = np.ascontiguousarray(head.T)
            self._layers = [_Layer(tensors, f"model.layers.{i}.") for i in range(config.num_hidden_layers)]
        except KeyError as error:
            raise ModelError(f"the weights lack {error}") from error
        if self.embedding.shape != (config.vocab_size, config.hidden_size):
            raise ModelError(f"the embedding has the shape {self.embedding.shape}, which config.json contradicts")
        self._cos, self._sin = rope_tables(config, config.max_position_embeddings)

    @classmethod
    def load(cls, folder: Path) -> LlamaModel:
        """Load a folder with ``config.json`` and weights. Raises :class:`ModelError`."""
        config = LlamaConfig.load(folder)
        return cls(config, load_weights(folder))

    def embed(self, tokens: NDArray[np.int64]) -> Array:
        """Ids (n, t) to hidden states (n, t, hidden_size)."""
        return self.embedding[tokens]

    def logits(self, hidden: Array) -> Array:
        """Last hidden states (n, hidden_size) to logits (n, vocab_size)."""
        return _rms_norm(hidden, self._final_norm, self.config.rms_norm_eps) @ self._head

    def forward_range(self, hidden: Array, lo: int, hi: int, cache: KvCache, *, first: int = 0) -> Array:
        """Run layers ``lo`` to ``hi`` over ``hidden`` (n, t, hidden_size) of the sequences in slots ``first`` …

        The new keys and values are written behind ``cache.lengths``; the caller calls :meth:`KvCache.advance` once all
        layers have run. The cache must have room for ``t`` more tokens.
        """
        n, t, _ = hidden.shape
        past = cache.lengths[first : first + n]
        longest = int(past.max()) + t
        assert longest <= cache.capacity, "the cache is full: the caller bounds prompts and answers by the context"
        positions = past[:, None] + np.arange(t)
        cos, sin = self._cos[positions][:, None], self._sin[positions][:, None]
        mask = None
        if longest > 1 and not (n == 1 and t == 1):
            mask = np.where(np.arange(longest) <= positions[:, :, None], np.float32(0), np.float32(-1e9))[:, None]
        rows = np.arange(n)[:, None]
        for index in range(lo, hi):
            layer = self._layers[index]
            normed = _rms_norm(hidden, layer.input_norm, self.config.rms_norm_eps)
            q, k, v = self._split(normed @ layer.qkv)
            q, k = q * cos + _rotate(q) * sin, k * cos + _rotate(k) * sin
            keys, values = cache.keys[index, first : first + n], cache.values[index, first : first + n]
            keys[rows, :, positions] = k.transpose(0, 2, 1, 3)
            values[rows, :, positions] = v.transpose(0, 2, 1, 3)
            attended = self._attend(q, keys[:, :, :longest], values[:, :, :longest], mask)
            hidden = hidden + attended @ layer.output
            normed = _rms_norm(hidden, layer.post_norm, self.config.rms_norm_eps)
            gate, up = np.split(normed @ layer.gate_up, 2, axis=-1)
            # Below -60 the sigmoid is zero in float32 anyway, and exp() would overflow.
            hidden = hidden + (gate / (1 + np.exp(-np.maximum(gate, -60))) * up) @ layer.down
        return hidden

    def forward(self, tokens: NDArray[np.int64], cache: KvCache, *, first: int = 0) -> Array:
        """Feed ids (n, t) and return the logits (n, vocab_size) after the last of each sequence."""
        hidden = self.forward_range(self.embed(tokens), 0, self.config.num_hidden_layers, cache, first=first)
        cache.advance(first, tokens.shape[0], tokens.shape[1])
        return self.logits(hidden[:, -1])

    def _split(self, fused: Array) -> tuple[Array, Array, Array]:
        """(n, t, all heads × head_dim) to queries, keys and values, (n, heads, t, head_dim) each."""
        n, t, _ = fused.shape
        config = self.config
        heads = fused.reshape(n, t, -1, config.head_dim).transpose(0, 2, 1, 3)
        first_value = config.num_attention_heads + config.num_key_value_heads
        q, k = heads[:, : config.num_attention_heads], heads[:, config.num_attention_heads : first_value]
        return q, k, heads[:, first_value:]

    def _attend(self, q: Array, keys: Array, values: Array, mask: Array | None) -> Array:
        """Grouped-query attention: (n, heads, t, head_dim) over (n, kv heads, length, head_dim) to (n, t, hidden)."""
        n, heads, t, head_dim = q.shape
        groups = heads // keys.shape[1]
        grouped = q.reshape(n, keys.shape[1], groups * t, head_dim)
        scores = grouped @ keys.transpose(0, 1, 3, 2)
        scores *= np.float32(head_dim**-0.5)
        if mask is not None:
            scores.reshape(n, keys.shape[1], groups, t, -1)[...] += mask[:, :, None]
        scores -= scores.max(-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(-1, keepdims=True)
        mixed = np.matmul(scores, values, dtype=np.float32).reshape(n, heads, t, head_dim)
        joined: Array = mixed.transpose(0, 2, 1, 3).reshape(n, t, heads * head_dim)
        return joined


class _Layer:
    """One layer's matrices, transposed and fused for ``x @ w``."""

    def __init__(self, tensors: dict[str, Array], prefix: str) -> None:
        def matrix(*names: str) -> Array:
            return np.ascontiguousarray(np.concatenate([tensors[f"{prefix}{name}.weight"] for name in names]).T)

        self.qkv = matrix("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        self.output = matrix("self_attn.o_proj")
        self.gate_up = matrix("mlp.gate_proj", "mlp.up_proj")
        self.down = matrix("mlp.down_proj")
        self.input_norm = tensors[prefix + "input_layernorm.weight"]
        self.post_norm = tensors[prefix + "post_attention_layernorm.weight"]


def _rms_norm(x: Array, weight: Array, eps: float) -> Array:
    scale = np.sqrt(np.einsum("...d,...d->...", x, x) / np.float32(x.shape[-1]) + np.float32(eps))
    result: Array = x / scale[..., None] * weight
    return result


def _rotate(x: Array) -> Array:
    half = x.shape[-1] // 2
    return np.concatenate([-x[..., half:], x[..., :half]], axis=-1)
