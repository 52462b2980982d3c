"""Choosing the next token from logits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Sampler:
    """Temperature and nucleus sampling (Holtzman et al. 2020) of one job, with its own seeded generator.

    ``temperature`` 0 is greedy and uses no randomness; ``top_p`` 1 keeps every token.
    """

    def __init__(self, temperature: float, top_p: float, seed: int) -> None:
        self._temperature = temperature
        self._top_p = top_p
        self._random = np.random.default_rng(seed % (1 << 64))

    def choose(self, logits: NDArray[np.float32]) -> int:
        """The next token id from logits (vocab_size,)."""
        if self._temperature < 1e-4:
            return int(logits.argmax())
        scaled = logits.astype(np.float64) / self._temperature
        probabilities = np.exp(scaled - scaled.max())
        probabilities /= probabilities.sum()
        if self._top_p >= 1.0:
            return int(self._random.choice(probabilities.size, p=probabilities))
        order = np.argsort(-probabilities, kind="stable")
        mass = np.cumsum(probabilities[order])
        keep = int(np.searchsorted(mass, self._top_p)) + 1
        kept = probabilities[order[:keep]]
        return int(order[self._random.choice(kept.size, p=kept / kept.sum())])
