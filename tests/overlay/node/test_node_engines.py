"""What the configuration says of engines reaches the engines."""

from __future__ import annotations

import pytest

from compute.tasks import Task
from overlay.config import load_config
from overlay.errors import ConfigError
from overlay.events import EventLog
from overlay.node.engines import make_engines, served_tasks


def make(*overrides):
    told = []
    engines = make_engines(load_config(None, overrides=overrides, environ={}), EventLog(told.append, lambda: 0.0))
    return [engine.name for engine in engines], [event.text for event in told], engines


def test_without_configuration_the_engines_that_need_nothing_are_made():
    names, told, _ = make()
    assert names == ["demo_llama", "pocketsphinx"]
    assert told == []


def test_every_option_of_an_upstream_is_one_that_the_engine_takes(monkeypatch):
    monkeypatch.setenv("UPSTREAM_KEY", "secret")
    names, told, engines = make(
        "engine.chat=upstream",
        "engine.transcribe=upstream",
        "engine.upstream.base_url=http://127.0.0.1:9/v1",
        "engine.upstream.api_key_env=UPSTREAM_KEY",
        "engine.upstream.models=a,b",
        "engine.upstream.max_parallel=3",
    )
    assert told == []
    assert names == ["openai_upstream"]
    sold = {(c.task, c.model, c.max_batch) for c in engines[0].capabilities()}
    assert sold == {(task, model, 3) for task in (Task.CHAT, Task.COMPLETION, Task.TRANSCRIBE) for model in "ab"}


def test_an_upstream_for_chat_alone_is_not_asked_to_transcribe():
    _, told, engines = make("engine.chat=upstream", "engine.upstream.base_url=http://x/v1", "engine.upstream.models=a")
    assert told == []
    assert {c.task for c in engines[0].capabilities()} == {Task.CHAT, Task.COMPLETION}


def test_every_option_of_exllamav2_is_one_that_the_engine_takes(tmp_path):
    # Making it loads nothing, so this holds on a machine without a GPU too.
    names, told, _ = make("engine.chat=exllamav2", f"engine.exllamav2.model_dir={tmp_path}", "node.serve=chat")
    assert told == []
    assert names == ["exllamav2"]


def test_an_upstream_without_an_address_is_an_error_that_shows_one():
    with pytest.raises(ConfigError, match=r"engine\.upstream\.base_url, for example http://"):
        make("engine.chat=upstream")


def test_a_key_that_is_not_in_the_environment_is_named(monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        make(
            "engine.chat=upstream",
            "engine.upstream.base_url=http://x/v1",
            "engine.upstream.api_key_env=NO_SUCH_KEY",
        )


def test_an_unknown_engine_is_an_error_that_names_those_there_are():
    with pytest.raises(ConfigError, match=r"engine\.chat: there is no engine 'vlllm'; choose among .*upstream"):
        make("engine.chat=vlllm,demo_llama")


def test_whoever_serves_chat_serves_completion_too():
    assert served_tasks(load_config(None, overrides=["node.serve=chat"], environ={})) == {Task.CHAT, Task.COMPLETION}
