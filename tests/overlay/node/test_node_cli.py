"""Wrong usage: one line that says what to do, the right exit code, never a traceback."""

from __future__ import annotations

import json

import pytest

from overlay.cli.app import run


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("COCOON_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "noise.ogg").write_bytes(b"this is no audio")
    (tmp_path / "wrong.toml").write_text("[node]\nlsten = []\n")
    (tmp_path / "broken.toml").write_text("[node\n")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("chat hi", "cocoon node run"),
        ("chat hi --ton nowhere.json", "nowhere.json"),
        ("chat hi --ton noise.ogg", "global.config.json"),
        ("chat hi --subnet nowhere", "No such file"),
        ("chat hi --subnet noise.ogg", "no subnet file"),
        ("chat hi --data-dir /proc/x", "--data-dir"),
        ("chat hi --set market.tier=gold", "plain"),
        ("transcribe nowhere.ogg", "No such file"),
        ("transcribe noise.ogg", "send OGG/Opus"),
        ("demo --voice noise.ogg", "send OGG/Opus"),
        ("node status", "cocoon node run"),
        ("node run --config nowhere.toml", "--config"),
        ("node run --config wrong.toml", "did you mean 'listen'?"),
        ("node run --config broken.toml", "broken.toml"),
        ("node run --preset none", "local"),
        ("node run --serve poetry", "transcribe"),
        ("node run --set node.lsten=3", "did you mean 'listen'?"),
        ("node run --set price.prompt=-1", "not negative"),
        ("node run --set engine.chat=vllm", "upstream"),
        ("node run --set engine.chat=upstream", "engine.upstream.base_url"),
        ("gateway run --port 99999999", "gateway.port"),
        ("channel settle", "no ledger"),
        ("channel exit 0:00 --as node", "there is no channel"),
        ("wallet show", "cocoon wallet new"),
        ("subnet create BAD_NAME", "small letters"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(line, word, capsys):
    assert run(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert word in err


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "chat --mdel x",
        "chat hi --max-tokens 0",
        "chat hi --temperature 9",
        "quote poetry",
        "channel settle --as bank",
        "devnet run --port 99999999",
        "swarm up -n 0",
    ],
)
def test_wrong_usage_shows_how_to_get_help(line, capsys):
    assert run(line.split()) == 2
    err = capsys.readouterr().err
    assert "-h" in err
    assert "Error: " in err


@pytest.mark.parametrize("line", ["chat hi", "node status", "wallet show", "channel settle", "transcribe noise.ogg"])
def test_with_json_the_error_is_an_object(line, capsys):
    assert run([*line.split(), "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert set(document["error"]) == {"code", "message"}


def test_an_empty_book_is_no_error(capsys):
    assert run(["channel", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert run(["channel", "list"]) == 0
    assert capsys.readouterr().out == "no channels yet\n"


def test_a_wallet_s_addresses_are_shown_without_a_network(capsys):
    assert run(["wallet", "new", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)["addresses"]
    assert len(set(made.values())) == len(made) >= 3, "one for each network"
    assert run(["wallet", "show", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["addresses"] == made
    assert shown["balance_nanoton"] is None
    assert run(["wallet", "new"]) == 2
    assert "already" in capsys.readouterr().err


def test_words_that_are_no_wallet_are_refused(capsys, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one two three")))
    assert run(["wallet", "import"]) == 2
    assert "24 words" in capsys.readouterr().err
