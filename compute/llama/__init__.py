"""A Llama in numpy: weights, forward pass with a key-value cache, sampling, chat templates, streaming text."""

from compute.llama.blas import SMALL_HIDDEN_SIZE, use_one_thread
from compute.llama.chat import ChatTemplate, load_template, render
from compute.llama.model import KvCache, LlamaConfig, LlamaModel, ModelError, weights_hash
from compute.llama.sampling import Sampler
from compute.llama.text import StreamDecoder

__all__ = [
    "SMALL_HIDDEN_SIZE",
    "ChatTemplate",
    "KvCache",
    "LlamaConfig",
    "LlamaModel",
    "ModelError",
    "Sampler",
    "StreamDecoder",
    "load_template",
    "render",
    "use_one_thread",
    "weights_hash",
]
