"""Engines: the programs that do the work, behind one interface and one registry.

Each engine's module is imported when it is created, so that the packages of those that nobody uses need not be there.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from compute.engines.base import Capability, Engine, EngineFailure, EngineJobId, EngineUnavailable

_ENGINES = {
    "demo_llama": ("compute.engines.demo_llama", "DemoLlamaEngine"),
    "exllamav2": ("compute.engines.exllamav2", "ExLlamaV2Engine"),
    "openai_upstream": ("compute.engines.openai_upstream", "OpenAIUpstreamEngine"),
    "pocketsphinx": ("compute.engines.isolated", "pocketsphinx"),
}


def names() -> tuple[str, ...]:
    """The engines that :func:`create` knows, whether or not they can run here."""
    return tuple(_ENGINES)


def create(name: str, **options: Any) -> Engine:
    """Make the engine ``name``; nothing heavy happens before :meth:`~compute.engines.base.Engine.load`.

    Raises :class:`EngineUnavailable` for an unknown name, a missing package or a wrong option.
    """
    try:
        module, attribute = _ENGINES[name]
    except KeyError:
        raise EngineUnavailable(f"there is no engine {name!r}; choose one of {', '.join(_ENGINES)}") from None
    try:
        engine_class = getattr(import_module(module), attribute)
    except ImportError as error:
        raise EngineUnavailable(f"the engine {name} needs a package that is missing: {error}") from error
    try:
        engine: Engine = engine_class(**options)
    except TypeError as error:
        raise EngineUnavailable(f"the engine {name} does not take these options: {error}") from error
    return engine


__all__ = ["Capability", "Engine", "EngineFailure", "EngineJobId", "EngineUnavailable", "create", "names"]
