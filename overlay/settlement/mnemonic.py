"""TON's 24 words: making them, checking them, and the key that they stand for.

The scheme of TON's own wallets (@ton/crypto ``mnemonic.ts``): the entropy is HMAC-SHA512 over an optional password,
keyed by the words; words are valid when a hash of it begins with a zero byte. Words that belong to a password are
marked: they are invalid without it. pytoniq_core has the word list and the scheme without the password, which it leaves
undone, and takes words that are not on the list.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Sequence

from pytoniq_core.crypto.keys import words as _WORDS

WORD_COUNT = 24
_ITERATIONS = 100_000
_VERSION_ITERATIONS = _ITERATIONS // 256
_INDEX = {word: index for index, word in enumerate(_WORDS)}
_MAX_ATTEMPTS = 10_000_000
"""One in 256 sequences is valid without a password, one in 65,536 with one: more attempts mean broken randomness."""


def new_mnemonic(password: str = "", *, random_bytes: Callable[[int], bytes] = os.urandom) -> list[str]:
    """24 fresh words, valid with ``password`` and, when there is one, only with it.

    ``random_bytes`` must be cryptographically strong. Takes about 0.1 s, with a password some seconds.
    """
    assert len(_WORDS) == 2048, "eleven bits choose a word without bias"
    for _ in range(_MAX_ATTEMPTS):
        drawn = random_bytes(2 * WORD_COUNT)
        words = [_WORDS[int.from_bytes(drawn[2 * index : 2 * index + 2], "big") % 2048] for index in range(WORD_COUNT)]
        if password and not needs_password(words):
            continue
        if _is_basic_seed(_entropy(words, password)):
            return words
    raise RuntimeError("no valid words in ten million attempts: the randomness is broken")


def check_mnemonic(words: Sequence[str], password: str = "") -> bool:
    """Whether these are the 24 words of a TON wallet: each on the list, the checksum right, the password theirs."""
    listed = _normal(words)
    if len(listed) != WORD_COUNT or any(word not in _INDEX for word in listed):
        return False
    if password and not needs_password(listed):
        return False
    return _is_basic_seed(_entropy(listed, password))


def needs_password(words: Sequence[str]) -> bool:
    """Whether these words are marked as belonging to a password."""
    entropy = _entropy(_normal(words), "")
    return hashlib.pbkdf2_hmac("sha512", entropy, b"TON fast seed version", 1)[0] == 1 and not _is_basic_seed(entropy)


def mnemonic_seed(words: Sequence[str], password: str = "") -> bytes:
    """The 32-byte Ed25519 seed of these words. Raises ``ValueError`` when they are not valid with ``password``."""
    if not check_mnemonic(words, password):
        raise ValueError(mnemonic_problem(words, password))
    return hashlib.pbkdf2_hmac("sha512", _entropy(_normal(words), password), b"TON default seed", _ITERATIONS)[:32]


def mnemonic_problem(words: Sequence[str], password: str = "") -> str:
    """Why these words are no valid TON mnemonic, for people; the words themselves are not repeated."""
    listed = _normal(words)
    if len(listed) != WORD_COUNT:
        return f"not a TON mnemonic: {len(listed)} words, and it has {WORD_COUNT}"
    unknown = [index + 1 for index, word in enumerate(listed) if word not in _INDEX]
    if unknown:
        return f"not a TON mnemonic: word {', '.join(map(str, unknown))} is not on the list (misspelt?)"
    if password:
        return "not a TON mnemonic with this password: the password is wrong, or the words have none"
    if needs_password(listed):
        return "these words belong to a mnemonic password, which is missing"
    return "not a TON mnemonic: the checksum does not hold (a word is wrong, or the order is)"


def _normal(words: Sequence[str]) -> list[str]:
    return [word.strip().lower() for word in words]


def _entropy(words: Sequence[str], password: str) -> bytes:
    return hmac.new(" ".join(words).encode(), password.encode(), hashlib.sha512).digest()


def _is_basic_seed(entropy: bytes) -> bool:
    return hashlib.pbkdf2_hmac("sha512", entropy, b"TON seed version", _VERSION_ITERATIONS)[0] == 0
