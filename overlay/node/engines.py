"""Which engines a configuration asks for, and making them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from compute.engines import Engine, EngineUnavailable, create, names
from compute.tasks import Task
from overlay.config import Config
from overlay.errors import ConfigError
from overlay.events import EventLog

_ALIASES = {"upstream": "openai_upstream"}


def served_tasks(config: Config) -> set[Task]:
    """The tasks on offer; whoever serves chat serves plain completion too, by the same engines."""
    tasks = {Task(name) for name in config.node.serve}
    return tasks | {Task.COMPLETION} if Task.CHAT in tasks else tasks


def make_engines(config: Config, log: EventLog) -> list[Engine]:
    """The engines of the tasks on offer. One that cannot run here is reported, with what to install, and left out.

    Raises :class:`~overlay.errors.ConfigError` for a name that no engine has and for missing options."""
    engines = []
    _check_names(config)
    for name in dict.fromkeys(_wanted(config)):
        try:
            engines.append(create(_ALIASES.get(name, name), **_options(name, config)))
        except EngineUnavailable as error:
            log.warning("engine_unavailable", f"{name}: {error}", engine=name)
    return engines


def _check_names(config: Config) -> None:
    known = sorted({*names(), *_ALIASES} - set(_ALIASES.values()))
    for key, wanted in (("engine.chat", config.engine.chat), ("engine.transcribe", config.engine.transcribe)):
        for name in wanted:
            if _ALIASES.get(name, name) not in names():
                raise ConfigError(f"{key}: there is no engine {name!r}; choose among {', '.join(known)}")


def _wanted(config: Config) -> Iterator[str]:
    tasks = served_tasks(config)
    if tasks & {Task.CHAT, Task.COMPLETION, Task.EMBED}:
        yield from config.engine.chat
    if Task.TRANSCRIBE in tasks:
        yield from config.engine.transcribe


def _options(name: str, config: Config) -> dict[str, Any]:
    if name in ("upstream", "openai_upstream"):
        upstream = config.engine.upstream
        if not upstream.base_url:
            raise ConfigError(
                "the upstream engine needs engine.upstream.base_url, for example http://127.0.0.1:8000/v1"
            )
        if upstream.api_key_env and upstream.api_key_env not in os.environ:
            raise ConfigError(f"engine.upstream.api_key_env names {upstream.api_key_env}, which is not set")
        return {
            "base_url": upstream.base_url,
            "api_key_env": upstream.api_key_env or None,
            "models": {model: model for model in upstream.models} or None,
            "tasks": _tasks_of(name, config),
            "max_batch": upstream.max_parallel,
        }
    if name == "exllamav2":
        model = config.engine.exllamav2
        if not model.model_dir:
            raise ConfigError("the exllamav2 engine needs engine.exllamav2.model_dir, a directory with an EXL2 model")
        return {
            "folder": model.model_dir, "model": model.model or None, "max_batch": model.max_batch, "cache": model.cache
        }  # fmt: skip
    return {}


def _tasks_of(name: str, config: Config) -> list[Task]:
    """Which of the tasks on offer the configuration gives to the engine ``name``."""
    tasks = served_tasks(config)
    given = tasks - {Task.TRANSCRIBE} if name in config.engine.chat else set()
    if name in config.engine.transcribe:
        given |= tasks & {Task.TRANSCRIBE}
    return sorted(given)
