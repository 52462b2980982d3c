"""The keys that are money: the wallet's words and the channel key, in the clear or sealed, in the data directory.

    wallet.words   24 words, on a second line the mnemonic password where there is one; or sealed (0600)
    channel.key    32-byte Ed25519 seed in hex that signs vouchers; or sealed (0600)

Both files keep their names when they are sealed, and each is replaced atomically, so that at any instant exactly one
form of each exists. The libp2p identity is not among them: it is nobody's money.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from overlay.datadir import DataDir, write_private
from overlay.errors import ConfigError
from overlay.settlement import SealError, Wallet, mnemonic_problem, new_mnemonic
from overlay.settlement.mnemonic import check_mnemonic
from overlay.settlement.sealed import check_passphrase, is_sealed, public_part, seal, unseal

_PASSWORD_LINE = "password "  # noqa: S105 — the label of a line, no password
_SEED_BYTES = 32

Passphrase = Callable[[], str]
"""Gives the passphrase when it turns out to be needed."""


@dataclass(frozen=True)
class WalletSecret:
    """What a wallet is made of. ``repr`` shows none of it."""

    words: tuple[str, ...] = field(repr=False)
    password: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if "\n" in self.password or "\r" in self.password:
            raise ValueError("a mnemonic password is one line")

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Parse the plain form. Raises :class:`~overlay.errors.ConfigError` when it is damaged."""
        lines = text.strip("\n").split("\n")
        password = ""
        if len(lines) == 2 and lines[1].startswith(_PASSWORD_LINE):
            password = lines.pop()[len(_PASSWORD_LINE) :]
        words = tuple(" ".join(lines).split())
        if not check_mnemonic(words, password):
            problem = mnemonic_problem(words, password)
            raise ConfigError(f"wallet.words is damaged: {problem}; restore it from a backup")
        return cls(words, password)

    def to_text(self) -> str:
        """The plain form."""
        return " ".join(self.words) + (f"\n{_PASSWORD_LINE}{self.password}" if self.password else "")

    def wallet(self, network_id: int) -> Wallet:
        """The wallet on a network. Takes about 0.1 s."""
        return Wallet.from_mnemonic(self.words, network_id, self.password)


@dataclass(frozen=True)
class Keys:
    """The keys of a data directory, opened."""

    wallet: WalletSecret
    channel_seed: bytes = field(repr=False)


class KeyFiles:
    """The key files of a data directory. Each method that reads a sealed one takes half a second."""

    def __init__(self, directory: DataDir, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._directory = directory
        self._random = random_bytes

    @property
    def wallet_path(self) -> Path:
        """Where the wallet is."""
        return self._directory.path / "wallet.words"

    @property
    def channel_path(self) -> Path:
        """Where the channel key is."""
        return self._directory.path / "channel.key"

    def open(self, passphrase: Passphrase) -> Keys:
        """Read both keys, made on first use. ``passphrase`` is asked once, and only when one of them is sealed.

        Raises :class:`~overlay.errors.ConfigError` for a damaged file,
        :class:`~overlay.settlement.WrongPassphrase` and :class:`~overlay.settlement.SealError`.
        """
        once: list[str] = []

        def asked() -> str:
            if not once:
                once.append(passphrase())
            return once[0]

        if not self.wallet_path.exists():
            self._directory.text("wallet.words", lambda: WalletSecret(tuple(new_mnemonic())).to_text())
        return Keys(self.open_wallet(asked), self._channel_seed(asked))

    def open_wallet(self, passphrase: Passphrase) -> WalletSecret:
        """Read the wallet alone; errors as those of :meth:`open`. Writes nothing."""
        return WalletSecret.from_text(self._read(self.wallet_path, "wallet", passphrase))

    def store(self, wallet: WalletSecret, passphrase: str | None) -> None:
        """Put a wallet into an empty place, sealed when there is a passphrase; the channel key goes with it.

        Raises :class:`~overlay.errors.ConfigError` when there is a wallet, ``ValueError`` for a poor passphrase.
        """
        if self.wallet_path.exists():
            raise ConfigError(f"there is a wallet already: {self.wallet_path}; move the file away first if you mean it")
        if passphrase is None:
            write_private(self.wallet_path, wallet.to_text() + "\n")
            return
        check_passphrase(passphrase)
        self._seal_wallet(wallet, passphrase)
        if not self.channel_path.exists() or not is_sealed(self.channel_path.read_text("utf-8")):
            self._seal_channel(self._channel_seed(lambda: passphrase), passphrase)

    def change(self, passphrase: Passphrase, new: str | None) -> None:
        """Seal both files under ``new``, or with ``None`` lay them open, whatever they were before."""
        if not self.wallet_path.exists():
            raise ConfigError(f"there is no wallet in {self._directory.path} yet: `cocoon wallet new` makes one")
        if new is not None:
            check_passphrase(new)
        keys = self.open(passphrase)
        if new is None:
            write_private(self.wallet_path, keys.wallet.to_text() + "\n")
            write_private(self.channel_path, keys.channel_seed.hex() + "\n")
        else:
            self._seal_wallet(keys.wallet, new)
            self._seal_channel(keys.channel_seed, new)

    def public_key(self) -> bytes | None:
        """The wallet's public key when the wallet is sealed and no passphrase is at hand, as the file claims it."""
        text = self.wallet_path.read_text("utf-8")
        try:
            return bytes.fromhex(public_part(text)["key"]) if is_sealed(text) else None
        except (ValueError, KeyError) as error:
            raise SealError("the sealed file is damaged: its public part names no key") from error

    @property
    def sealed(self) -> bool:
        """Whether the wallet is sealed."""
        return self.wallet_path.exists() and is_sealed(self.wallet_path.read_text("utf-8"))

    def _read(self, path: Path, kind: str, passphrase: Passphrase) -> str:
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from error
        return unseal(text, passphrase(), kind=kind).decode() if is_sealed(text) else text

    def _channel_seed(self, passphrase: Passphrase) -> bytes:
        if not self.channel_path.exists() or not is_sealed(self.channel_path.read_text("utf-8")):
            return self._directory.secret("channel.key", self._random)
        seed = bytes.fromhex(self._read(self.channel_path, "channel key", passphrase))
        if len(seed) != _SEED_BYTES:
            raise SealError("the sealed file is damaged: a channel key has 32 bytes")
        return seed

    def _seal_wallet(self, wallet: WalletSecret, passphrase: str) -> None:
        public = {"key": wallet.wallet(0).public_key.hex()}
        text = wallet.to_text().encode()
        sealed = seal(text, passphrase, kind="wallet", public=public, random_bytes=self._random)
        write_private(self.wallet_path, sealed + "\n")

    def _seal_channel(self, seed: bytes, passphrase: str) -> None:
        sealed = seal(seed.hex().encode(), passphrase, kind="channel key", public={}, random_bytes=self._random)
        write_private(self.channel_path, sealed + "\n")
