"""docs/configuration.md holds every key of the code, with the default of the code, and nothing else."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from overlay.config import PRESETS, Config, load_config

PAGE = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text("utf-8")
ROW = re.compile(r"^\| `(?P<key>[a-z0-9_.]+\.[a-z0-9_]+)` \| `(?P<default>[^`]*)` \| (?P<rest>.*) \|$", re.M)
ROWS = {match["key"]: match for match in ROW.finditer(PAGE)}


def _shown(value: object) -> str:
    """A value as the page writes it: TOML, thousands apart."""
    return f"{value:_}" if type(value) is int else json.dumps(value)


def _leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield path + name, value


DEFAULTS = dict(_leaves(msgspec.to_builtins(Config())))


def _another(value: Any) -> str:
    """A value other than the default, of the same type."""
    if isinstance(value, list):
        return "chat"
    if isinstance(value, bool):
        return str(not value).lower()
    return str(value + 1) if isinstance(value, (int, float)) else "another"


def test_the_page_lists_exactly_the_keys_of_the_code() -> None:
    assert set(ROWS) == set(DEFAULTS)


@pytest.mark.parametrize("key", sorted(DEFAULTS))
def test_a_key_is_on_the_page_with_its_default_unit_and_meaning(key: str) -> None:
    row = ROWS[key]
    assert row["default"] == _shown(DEFAULTS[key])
    unit, meaning, environment = row["rest"].split(" | ")
    assert unit
    assert meaning
    assert environment.strip("`").startswith("COCOON_")


_OTHER = {"market.tier": "verified", "nat.assume": "public", "relay.serve": "true"}
"""Keys that take none but certain words."""


@pytest.mark.parametrize("key", sorted(DEFAULTS.keys() - {"node.preset"}))
def test_the_environment_name_on_the_page_sets_that_key(key: str) -> None:
    variable = ROWS[key]["rest"].split(" | ")[2].strip("`")
    changed = dict(
        _leaves(msgspec.to_builtins(load_config(None, environ={variable: _OTHER.get(key) or _another(DEFAULTS[key])})))
    )
    assert {name for name in changed if changed[name] != DEFAULTS[name]} == {key}


def test_the_environment_name_of_the_preset_chooses_it() -> None:
    variable = ROWS["node.preset"]["rest"].split(" | ")[2].strip("`")
    assert load_config(None, environ={variable: "local"}) == load_config(None, preset="local", environ={})


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_preset_is_on_the_page_with_all_that_it_sets(preset: str) -> None:
    row = re.search(rf"^\| `{preset}` \| [^|]+ \| (.*) \|$", PAGE, re.M)
    assert row is not None
    assert row[1] == ", ".join(f"`{key} = {_shown(value)}`" for key, value in _leaves(PRESETS[preset]))


def test_the_page_names_no_other_preset() -> None:
    table = PAGE.partition("## Presets")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.M)) == set(PRESETS)


def test_the_example_file_of_the_page_is_a_valid_configuration(tmp_path: Path) -> None:
    example = re.search(r"```toml\n(.*?)```", PAGE, re.S)
    assert example is not None
    file = tmp_path / "cocoon.toml"
    file.write_text(example[1])
    assert load_config(file, environ={}).engine.upstream.base_url == "http://127.0.0.1:11434/v1"
