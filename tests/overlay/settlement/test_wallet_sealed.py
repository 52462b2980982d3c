"""Keys at rest: sealed under a passphrase, opened by nothing else, and never lost between two forms."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.datadir import DataDir, open_data_dir
from overlay.errors import ConfigError
from overlay.keys import KeyFiles, WalletSecret
from overlay.passphrase import existing_passphrase, new_passphrase, stored_passphrase
from overlay.settlement import SealError, WrongPassphrase, sealed
from overlay.settlement.sealed import is_sealed, public_part, seal, unseal
from tests.overlay.settlement.test_wallet_mnemonic import WORDS, locked_words

PASSPHRASE = "correct horse battery"


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost is a parameter of the file; what is tested here does not depend on it."""
    monkeypatch.setattr(sealed.seal, "__kwdefaults__", {"log2_n": 4})


def sealed_text(secret: bytes = b"secret", kind: str = "wallet") -> str:
    return seal(secret, PASSPHRASE, kind=kind, public={"key": "aa"}, random_bytes=random.Random(1).randbytes, log2_n=4)


@settings(max_examples=20, deadline=None)
@given(st.binary(max_size=500), st.text(min_size=8, max_size=40).filter(lambda text: len(text.strip()) >= 8))
def test_what_was_sealed_comes_back_and_only_with_the_passphrase(secret: bytes, passphrase: str) -> None:
    try:
        text = seal(secret, passphrase, kind="x", public={}, random_bytes=os.urandom, log2_n=2)
    except ValueError:  # shorter than eight characters once it is normalised
        return
    assert is_sealed(text)
    assert unseal(text, passphrase, kind="x") == secret
    with pytest.raises(WrongPassphrase, match="wrong"):
        unseal(text, passphrase + "!", kind="x")


def test_a_passphrase_typed_with_composed_or_decomposed_accents_is_the_same() -> None:
    text = seal(b"s", "m\u00fcller-stra\u00dfe", kind="x", public={}, random_bytes=os.urandom, log2_n=2)
    assert unseal(text, "mu\u0308ller-stra\u00dfe", kind="x") == b"s"


def test_the_default_cost_is_128_mib_of_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    head = json.loads(seal(b"s", PASSPHRASE, kind="x", public={}, random_bytes=os.urandom))
    assert (head["kdf"], head["log2_n"], head["r"], head["p"]) == ("scrypt", 17, 8, 1)


def test_every_field_of_the_file_is_authenticated() -> None:
    head = json.loads(sealed_text())
    changes: list[tuple[str, Any]] = [
        ("public", {"key": "bb"}), ("log2_n", 5), ("r", 9), ("p", 2), ("salt", "00" * 16), ("nonce", "00" * 12),
        ("sealed", head["sealed"][:-2] + "00"), ("sealed", ""),
    ]  # fmt: skip
    for name, value in changes:
        with pytest.raises(WrongPassphrase):
            unseal(json.dumps({**head, name: value}), PASSPHRASE, kind="wallet")


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", '{"cocoon_sealed": 1}', '{"cocoon_sealed"' + " " * 20_000,
        *(json.dumps({**json.loads(sealed_text()), **change}) for change in (
            {"log2_n": 60}, {"log2_n": -1}, {"log2_n": 4.0}, {"r": 10**9}, {"p": True}, {"salt": "00"}, {"nonce": "zz"},
            {"kdf": "md5"}, {"aead": "none"}, {"extra": 1}, {"public": []}, {"kind": 7},
        )),
    ],
)  # fmt: skip
def test_a_damaged_or_hostile_file_is_refused_before_it_costs_anything(text: str) -> None:
    with pytest.raises(SealError):
        unseal(text, PASSPHRASE, kind="wallet")


def test_a_newer_version_and_another_kind_say_so() -> None:
    with pytest.raises(SealError, match="newer version"):
        unseal(json.dumps({**json.loads(sealed_text()), "cocoon_sealed": 2}), PASSPHRASE, kind="wallet")
    with pytest.raises(SealError, match="holds a channel key"):
        unseal(sealed_text(kind="channel key"), PASSPHRASE, kind="wallet")


def test_a_short_passphrase_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 8"):
        seal(b"s", "short", kind="x", public={}, random_bytes=os.urandom, log2_n=2)


def test_the_public_part_is_readable_without_the_passphrase() -> None:
    assert public_part(sealed_text()) == {"key": "aa"}


# ---- the files of a data directory ----


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[DataDir]:
    with open_data_dir(tmp_path / "data") as opened:
        yield opened


def never() -> str:
    raise AssertionError("no passphrase was needed")


def test_plain_files_need_no_passphrase_and_are_made_on_first_use(directory: DataDir) -> None:
    keys = KeyFiles(directory).open(never)
    assert KeyFiles(directory).open(never) == keys
    assert len(keys.wallet.words) == 24
    assert str(keys.wallet.words[0]) not in repr(keys)


def test_sealing_changes_the_form_of_both_files_and_not_the_keys(directory: DataDir) -> None:
    files = KeyFiles(directory)
    keys = files.open(never)
    files.change(never, PASSPHRASE)
    for path, plain in ((files.wallet_path, keys.wallet.words[5]), (files.channel_path, keys.channel_seed.hex())):
        assert is_sealed(path.read_text())
        assert plain not in path.read_text()
        assert path.stat().st_mode & 0o077 == 0
    asked: list[None] = []

    def once() -> str:
        asked.append(None)
        return PASSPHRASE

    assert files.open(once) == keys
    assert len(asked) == 1
    assert files.public_key() == keys.wallet.wallet(0).public_key
    files.change(lambda: PASSPHRASE, "another passphrase")
    with pytest.raises(WrongPassphrase):
        files.open(lambda: PASSPHRASE)
    files.change(lambda: "another passphrase", None)
    assert files.open(never) == keys


def test_a_crash_between_the_two_files_leaves_both_readable(
    directory: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = KeyFiles(directory)
    keys = files.open(never)

    def cut(self: KeyFiles, seed: bytes, passphrase: str) -> None:
        raise OSError("power cut")

    monkeypatch.setattr(KeyFiles, "_seal_channel", cut)
    with pytest.raises(OSError, match="power cut"):
        files.change(never, PASSPHRASE)
    monkeypatch.undo()
    assert KeyFiles(directory).open(lambda: PASSPHRASE) == keys
    files.change(lambda: PASSPHRASE, PASSPHRASE)
    assert is_sealed(files.channel_path.read_text())


def test_a_wrong_passphrase_changes_nothing(directory: DataDir) -> None:
    files = KeyFiles(directory)
    files.open(never)
    files.change(never, PASSPHRASE)
    before = files.wallet_path.read_text(), files.channel_path.read_text()
    with pytest.raises(WrongPassphrase):
        files.change(lambda: "something else", None)
    with pytest.raises(ValueError, match="at least 8"):
        files.change(lambda: PASSPHRASE, "short")
    assert (files.wallet_path.read_text(), files.channel_path.read_text()) == before


def test_words_with_a_password_of_their_own_are_kept_with_it(directory: DataDir) -> None:
    files = KeyFiles(directory)
    secret = WalletSecret(locked_words(), "correct horse")
    files.store(secret, None)
    assert files.open(never).wallet == secret
    files.change(never, PASSPHRASE)
    assert files.open(lambda: PASSPHRASE).wallet == secret
    with pytest.raises(ConfigError, match="there is a wallet already"):
        files.store(secret, None)


@pytest.mark.parametrize("text", ["", "one two", " ".join(WORDS[::-1]), " ".join(WORDS) + "\npassword nonsense"])
def test_damaged_words_are_a_clear_error(directory: DataDir, text: str) -> None:
    (directory.path / "wallet.words").write_text(text)
    with pytest.raises(ConfigError, match=r"wallet\.words is damaged"):
        KeyFiles(directory).open(never)


# ---- where the passphrase comes from ----


def test_the_passphrase_comes_from_the_first_place_that_has_one(tmp_path: Path) -> None:
    for name in ("configured", "named", "cocoon-passphrase"):
        (tmp_path / name).write_text(f"from {name}\n")
        (tmp_path / name).chmod(0o600)
    everything = {
        "COCOON_PASSPHRASE": "from the variable", "COCOON_PASSPHRASE_FILE": str(tmp_path / "named"),
        "CREDENTIALS_DIRECTORY": str(tmp_path),
    }  # fmt: skip
    configured = str(tmp_path / "configured")
    assert stored_passphrase(configured, everything) == "from configured"
    assert stored_passphrase("", everything) == "from the variable"
    del everything["COCOON_PASSPHRASE"]
    assert stored_passphrase("", everything) == "from named"
    del everything["COCOON_PASSPHRASE_FILE"]
    assert stored_passphrase("", everything) == "from cocoon-passphrase"
    assert stored_passphrase("", {}) is None
    assert (
        existing_passphrase("it", environ={}, ask=lambda prompt: f"typed at {prompt}") == "typed at Passphrase of it: "
    )


def test_a_passphrase_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "passphrase"
    path.write_text("secret passphrase")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        stored_passphrase(str(path), {})


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines", b"\xff\xfe", b"x" * 5000])
def test_a_passphrase_file_without_a_passphrase_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "passphrase"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="passphrase"):
        stored_passphrase("", {"COCOON_PASSPHRASE_FILE": str(path)})
    with pytest.raises(ConfigError, match="cannot be read"):
        stored_passphrase(str(tmp_path / "nowhere"), {})


def test_without_a_terminal_a_missing_passphrase_names_every_way_to_give_it() -> None:
    with pytest.raises(ConfigError) as caught:
        existing_passphrase("the wallet", environ={})
    for way in ("ton.passphrase_file", "COCOON_PASSPHRASE_FILE", "COCOON_PASSPHRASE", "systemd"):
        assert way in str(caught.value)


def test_a_new_passphrase_is_asked_for_twice() -> None:
    typed = iter(["first one", "first one", "first one", "second one"])
    assert new_passphrase("it", environ={}, ask=lambda _prompt: next(typed)) == "first one"
    with pytest.raises(ConfigError, match="differ"):
        new_passphrase("it", environ={}, ask=lambda _prompt: next(typed))
    with pytest.raises(ConfigError, match="COCOON_NEW_PASSPHRASE"):
        new_passphrase("it", environ={"COCOON_PASSPHRASE": "the old one"}, changing=True)
    assert new_passphrase("it", environ={"COCOON_NEW_PASSPHRASE": "the new one"}, changing=True) == "the new one"
