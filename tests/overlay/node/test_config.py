import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.config import PRESETS, Config, load_config
from overlay.errors import ConfigError


def test_no_configuration_is_a_valid_configuration() -> None:
    assert load_config(None, environ={}) == Config()


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "cocoon.toml"
    file.write_text(
        '[node]\npreset = "datacenter"\nqueue_per_engine = 7\ndrain_timeout_s = 8\n[gateway]\nport = 1001\n'
    )
    environ = {"COCOON_GATEWAY_PORT": "1002", "COCOON_NODE_DRAIN_TIMEOUT_S": "9"}
    config = load_config(file, overrides=["gateway.port=1003"], environ=environ)
    assert config.gateway.port == 1003
    assert config.node.drain_timeout_s == 9
    assert config.node.queue_per_engine == 7
    assert config.node.tunnel_port == PRESETS["datacenter"]["node"]["tunnel_port"]


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_holds_only_known_keys(preset: str) -> None:
    assert load_config(None, preset=preset, environ={}).node.preset == preset


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("node.srve=chat", "did you mean 'serve'"),
        ("nod.serve=chat", "there is no section 'nod'"),
        ("node.serve=paint", "there is no task 'paint'"),
        ("gateway.port=99999", "no port"),
        ("price.prompt=cheap", "int"),
        ("serve=chat", "section.key=value"),
        ("nothing", "section.key=value"),
        ("engine.upstream.base_ur=x", "did you mean 'base_url'"),
        ("ton.deposit_nanoton=0", "above zero"),
        ("price.cap_ratio=0.5", "cap"),
        ("price.prompt=-1", "not negative"),
    ],
)
def test_a_wrong_override_says_what_would_be_right(override: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint.replace("(", r"\(")):
        load_config(None, overrides=[override], environ={})


def test_a_wrong_key_in_a_file_names_the_file_and_the_nearest_key(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("[node]\nlissten = []\n")
    with pytest.raises(ConfigError, match=r"my\.toml: there is no key 'node\.lissten'; did you mean 'listen'"):
        load_config(file, environ={})


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "absent.toml", environ={})
    broken = tmp_path / "broken.toml"
    broken.write_text("[node\n")
    with pytest.raises(ConfigError, match=r"broken\.toml"):
        load_config(broken, environ={})


def test_lists_are_written_with_commas_or_as_toml() -> None:
    plain = load_config(None, overrides=["node.serve=chat,transcribe"], environ={})
    toml = load_config(None, overrides=['node.serve=["chat", "transcribe"]'], environ={})
    assert plain.node.serve == toml.node.serve == ["chat", "transcribe"]


@given(st.text(max_size=60))
def test_any_override_is_taken_or_refused_with_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(load_config(None, overrides=[text], environ={}), Config)


@given(st.text(max_size=40))
def test_any_text_for_a_text_key_stays_that_text_or_is_refused(text: str) -> None:
    try:
        config = load_config(None, overrides=["gateway.token_env=" + text], environ={})
    except ConfigError:
        return
    assert isinstance(config.gateway.token_env, str)


def test_a_tier_that_does_not_exist_is_an_error_that_names_those_there_are():
    with pytest.raises(ConfigError, match=r"market\.tier: there is no tier 'gold'; tiers: .*plain"):
        load_config(None, overrides=["market.tier=gold"], environ={})
