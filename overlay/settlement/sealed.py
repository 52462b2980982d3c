"""A secret under a passphrase: scrypt (RFC 7914) makes the key, ChaCha20-Poly1305 (RFC 8439) seals it. Pure.

The file is one JSON object on one line; everything in it but the ciphertext is authenticated too, so neither the cost
nor the public part can be exchanged::

    {"cocoon_sealed": 1, "kind": "wallet", "public": {…}, "kdf": "scrypt", "log2_n": 17, "r": 8, "p": 1,
     "salt": hex, "aead": "chacha20-poly1305", "nonce": hex, "sealed": hex}
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from overlay.settlement.errors import SettlementError

VERSION = 1
MIN_PASSPHRASE_CHARS = 8
"""Shorter ones fall to guessing, however slow each guess is."""

_LOG2_N, _R, _P = 17, 8, 1
"""128 MiB and about half a second a guess: OWASP's first choice for scrypt."""

_MAX_LOG2_N, _MAX_R, _MAX_P = 20, 16, 4
"""What a file may ask for: 2 GiB at most, so that a planted file cannot exhaust the machine."""

_SALT_BYTES, _NONCE_BYTES, _KEY_BYTES = 16, 12, 32
_MAX_TEXT_BYTES = 16_384
_FIELDS = {"cocoon_sealed", "kind", "public", "kdf", "log2_n", "r", "p", "salt", "aead", "nonce", "sealed"}


class SealError(SettlementError):
    """A sealed file that cannot be read: damaged, of a newer version, or of another kind."""


class WrongPassphrase(SealError):
    """The passphrase does not open this file (or the file was changed: the two cannot be told apart)."""


def is_sealed(text: str) -> bool:
    """Whether this is a sealed file, whatever its version."""
    return text.lstrip().startswith('{"cocoon_sealed"')


def check_passphrase(passphrase: str) -> None:
    """Raise ``ValueError`` for a passphrase that is too short to protect anything."""
    if len(_normal(passphrase)) < MIN_PASSPHRASE_CHARS:
        raise ValueError(f"a passphrase has at least {MIN_PASSPHRASE_CHARS} characters")


def seal(
    secret: bytes,
    passphrase: str,
    *,
    kind: str,
    public: Mapping[str, str],
    random_bytes: Callable[[int], bytes],
    log2_n: int = _LOG2_N,
) -> str:
    """Seal ``secret``. ``public`` stays readable without the passphrase; ``kind`` says what it is.

    ``random_bytes`` makes salt and nonce. Takes half a second of CPU and 128 MiB at the default cost.
    """
    check_passphrase(passphrase)
    head: dict[str, Any] = {
        "cocoon_sealed": VERSION, "kind": kind, "public": dict(sorted(public.items())), "kdf": "scrypt",
        "log2_n": log2_n, "r": _R, "p": _P, "salt": random_bytes(_SALT_BYTES).hex(), "aead": "chacha20-poly1305",
        "nonce": random_bytes(_NONCE_BYTES).hex(),
    }  # fmt: skip
    cipher = ChaCha20Poly1305(_key(head, passphrase))
    sealed = cipher.encrypt(bytes.fromhex(head["nonce"]), secret, _associated(head))
    return json.dumps({**head, "sealed": sealed.hex()})


def unseal(text: str, passphrase: str, *, kind: str) -> bytes:
    """Open what :func:`seal` made. Raises :class:`WrongPassphrase` and :class:`SealError`."""
    head, sealed = _parse(text)
    if head["kind"] != kind:
        raise SealError(f"this sealed file holds a {head['kind']}, not a {kind}")
    try:
        return ChaCha20Poly1305(_key(head, passphrase)).decrypt(bytes.fromhex(head["nonce"]), sealed, _associated(head))
    except InvalidTag as error:
        raise WrongPassphrase("the passphrase is wrong (or the file was changed)") from error


def public_part(text: str) -> dict[str, str]:
    """What can be read without the passphrase: believe it only once the file has been opened."""
    return {str(key): str(value) for key, value in _parse(text)[0]["public"].items()}


def _parse(text: str) -> tuple[dict[str, Any], bytes]:
    if len(text) > _MAX_TEXT_BYTES:
        raise SealError("a sealed file is smaller than that: it is damaged")
    try:
        head = json.loads(text)
        version = head["cocoon_sealed"]
        if version != VERSION:
            raise SealError(f"the sealed file is of version {version}: a newer version of this program made it")
        if set(head) != _FIELDS or head["kdf"] != "scrypt" or head["aead"] != "chacha20-poly1305":
            raise ValueError("unknown fields or algorithms")
        for name, most in (("log2_n", _MAX_LOG2_N), ("r", _MAX_R), ("p", _MAX_P)):
            if type(head[name]) is not int or not 1 <= head[name] <= most:
                raise ValueError(f"{name} out of range")
        for name, length in (("salt", _SALT_BYTES), ("nonce", _NONCE_BYTES)):
            if len(bytes.fromhex(head[name])) != length:
                raise ValueError(f"{name} of another length")
        if type(head["kind"]) is not str or type(head["public"]) is not dict:
            raise ValueError("malformed head")
        return head, bytes.fromhex(head.pop("sealed"))
    except SealError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SealError(f"the sealed file is damaged: {error}") from error


def _key(head: Mapping[str, Any], passphrase: str) -> bytes:
    scrypt = Scrypt(
        salt=bytes.fromhex(head["salt"]), length=_KEY_BYTES, n=1 << head["log2_n"], r=head["r"], p=head["p"]
    )  # fmt: skip
    return scrypt.derive(_normal(passphrase).encode())


def _associated(head: Mapping[str, Any]) -> bytes:
    return json.dumps(head, sort_keys=True, separators=(",", ":")).encode()


def _normal(passphrase: str) -> str:
    """The same passphrase typed on another keyboard must open the file (RFC 8265 uses this form as well)."""
    return unicodedata.normalize("NFC", passphrase)
