"""`cocoon wallet`: made, imported, shown, sealed, opened, with and without a passphrase at hand."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from overlay.cli.app import run
from overlay.settlement import Wallet, sealed, wallet_address_of_key
from tests.overlay.settlement.test_wallet_mnemonic import WORDS, locked_words

PASSPHRASE = "correct horse battery"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("PASSPHRASE", "PASSPHRASE_FILE", "NEW_PASSPHRASE", "MNEMONIC_PASSWORD"):
        monkeypatch.delenv(f"COCOON_{name}", raising=False)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.setenv("COCOON_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sealed.seal, "__kwdefaults__", {"log2_n": 4})
    return tmp_path / "home"


class Cli:
    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys, self._patch = capsys, monkeypatch

    def __call__(self, line: str, *, stdin: str = "", **environ: str) -> tuple[int, Any, str]:
        """Exit code, the JSON document (or text), and what stands on standard error."""
        for name, value in environ.items():
            self._patch.setenv(f"COCOON_{name}", value)
        self._patch.setattr("sys.stdin", io.StringIO(stdin))
        code = run(line.split())
        out, err = self._capsys.readouterr()
        for name in environ:
            self._patch.delenv(f"COCOON_{name}")
        try:
            return code, json.loads(out), err
        except ValueError:
            return code, out, err


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    return Cli(capsys, monkeypatch)


def test_words_are_imported_and_shown_with_the_addresses_they_have_everywhere(cli: Cli, home: Path) -> None:
    code, made, _ = cli("wallet import --json", stdin=" ".join(WORDS).upper() + "\n")
    assert code == 0
    key = Wallet.from_mnemonic(WORDS, -239).public_key
    assert made["addresses"]["mainnet"] == wallet_address_of_key(key, -239)
    assert made["sealed"] is False
    assert (home / "client" / "wallet.words").stat().st_mode & 0o077 == 0
    code, shown, _ = cli("wallet show --words --json")
    assert code == 0
    assert shown["words"] == " ".join(WORDS)
    assert shown["addresses"] == made["addresses"]
    assert cli("wallet new")[0] == 2


def test_wrong_words_say_which(cli: Cli) -> None:
    code, _, err = cli("wallet import", stdin=" ".join([*WORDS[:3], "frinj", *WORDS[4:]]))
    assert code == 2
    assert "word 4 is not on the list" in err
    assert "frinj" not in err


def test_a_sealed_wallet_shows_its_addresses_to_anybody_and_its_words_to_the_passphrase(cli: Cli, home: Path) -> None:
    code, made, _ = cli("wallet new --passphrase --json", PASSPHRASE=PASSPHRASE)
    assert code == 0
    assert made["sealed"] is True
    assert made["addresses"]["testnet"].startswith("0Q")
    code, shown, _ = cli("wallet show --json")
    assert code == 0
    assert shown["addresses"] == made["addresses"]
    assert shown["balance_nanoton"] is None
    assert "COCOON_PASSPHRASE" in shown["why"]
    assert cli("wallet show --words")[0] == 2
    code, _, err = cli("wallet show --words", PASSPHRASE="not the right one")
    assert code == 2
    assert "passphrase is wrong" in err
    code, shown, _ = cli("wallet show --words --json", PASSPHRASE=PASSPHRASE)
    assert code == 0
    assert len(shown["words"].split()) == 24
    assert Wallet.from_mnemonic(shown["words"], -239).friendly_address() == made["addresses"]["mainnet"]
    for name in ("wallet.words", "channel.key"):
        assert sealed.is_sealed((home / "client" / name).read_text())


def test_keys_are_sealed_reset_and_opened_in_place(cli: Cli, home: Path) -> None:
    cli("wallet import", stdin=" ".join(WORDS))
    path = home / "client" / "wallet.words"
    assert cli("wallet decrypt")[0] == 2
    code, _, err = cli("wallet encrypt")
    assert code == 2
    assert "COCOON_PASSPHRASE" in err
    assert "at least 8" in cli("wallet encrypt", PASSPHRASE="short")[2]
    assert " ".join(WORDS) in path.read_text()
    assert cli("wallet encrypt --json", PASSPHRASE=PASSPHRASE)[:2] == (0, {"sealed": True, "file": str(path)})
    assert WORDS[0] not in path.read_text()
    assert cli("wallet encrypt", PASSPHRASE=PASSPHRASE)[0] == 2
    assert cli("wallet passwd", PASSPHRASE="something else", NEW_PASSPHRASE="a new passphrase")[0] == 2
    assert cli("wallet passwd", PASSPHRASE=PASSPHRASE, NEW_PASSPHRASE="a new passphrase")[0] == 0
    assert cli("wallet decrypt", PASSPHRASE=PASSPHRASE)[0] == 2
    assert cli("wallet decrypt", PASSPHRASE="a new passphrase")[0] == 0
    assert path.read_text().strip() == " ".join(WORDS)


def test_a_headless_node_takes_the_passphrase_from_a_file(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.write_text(PASSPHRASE + "\n")
    file.chmod(0o600)
    assert cli(f"wallet new --as node --passphrase --set ton.passphrase_file={file}")[0] == 0
    code, shown, _ = cli("wallet show --as node --words --json", PASSPHRASE_FILE=str(file))
    assert code == 0
    assert len(shown["words"].split()) == 24
    file.chmod(0o644)
    assert "chmod 600" in cli("wallet show --as node --words", PASSPHRASE_FILE=str(file))[2]


def test_words_with_a_password_of_their_own_need_it(cli: Cli) -> None:
    words = " ".join(locked_words())
    code, _, err = cli("wallet import", stdin=words)
    assert code == 2
    assert "--mnemonic-password" in err
    code, made, _ = cli("wallet import --mnemonic-password --json", stdin=words, MNEMONIC_PASSWORD="correct horse")
    assert code == 0
    expected = Wallet.from_mnemonic(locked_words(), -239, "correct horse").friendly_address()
    assert made["addresses"]["mainnet"] == expected
    code, shown, _ = cli("wallet show --words --json")
    assert (shown["words"], shown["mnemonic_password"]) == (words, "correct horse")


def test_the_command_line_takes_no_passphrase_itself(cli: Cli) -> None:
    assert cli("wallet new --passphrase=secretsecret")[0] == 2


async def test_costs_and_balance_come_from_the_network_that_the_file_names(
    net: Any, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    import trio

    file = tmp_path / "global.config.json"
    file.write_text(json.dumps(net.config))
    monkeypatch.setattr("overlay.chain.TonClient.connect", patched_connect(net))
    monkeypatch.setattr("overlay.chain.ask_faucet", no_faucet)
    cli("wallet new", PASSPHRASE=PASSPHRASE)

    async def call(line: str) -> tuple[int, Any, str]:
        return await trio.to_thread.run_sync(cli, line)

    code, found, err = await call(f"wallet fees --ton {file} --json")
    assert code == 0, err
    costs = {(entry["operation"], entry["count"]): entry for entry in found["costs"]}
    assert 4_000_000 < costs["claim", 1]["fees_nanoton"] < 15_000_000
    assert costs["claim", 255]["fees_nanoton"] < 255 * costs["claim", 1]["fees_nanoton"]
    assert costs["open", 1]["moved_nanoton"] == 520_000_000
    code, text, _ = await call(f"wallet fees --ton {file}")
    assert text.startswith("operation\tfees at most")
    code, shown, err = await call(f"wallet show --ton {file} --json")
    assert code == 0, err
    assert shown["balance_nanoton"] == 0
    for option, word in (
        ("ton.network=mainnet", "network -239 was asked for"),
        ("ton.network=maynet", "write mainnet"),
    ):
        code, _, err = await call(f"wallet fees --ton {file} --set {option}")
        assert code == 2
        assert word in err
    code, _, err = await call(f"wallet fees --ton {file} --set ton.quorum=3")
    assert code == 2
    assert "quorum of 3" in err


def patched_connect(net: Any) -> Any:
    """The tests' devnet has a clock of its own."""
    from functools import partial

    from overlay.settlement.chain import TonClient

    return partial(TonClient.connect, clock=net.clock)


async def no_faucet(*_: Any) -> None:
    """The wallet stays empty."""
