"""A scenario's TOML tree against the types of :mod:`simulations.scenarios.model`: where a key is wrong, and what was
meant (pure).

A place is named as ``--set`` of `cocoon sim run` names it: ``providers.homes.count`` for the group called ``homes``,
``faults.0.at_s`` for what has no name.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, get_args, get_origin

import msgspec

from overlay.errors import ConfigError
from simulations.scenarios.model import Scenario

FREE_TABLES = ("config", "options")
"""Tables of a group whose keys are not ours; those of ``config`` are dotted."""

_AT = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")


class ScenarioError(ConfigError):
    """A scenario that cannot be run as written; the message says where it is wrong and what would be right."""

    code = "scenario"


def nearest(word: str, known: Iterable[str], kind: str, most: int = 3) -> str:
    """The end of a message on an unknown word: the nearest known ones, or all of them."""
    every = sorted(map(str, known))
    near = difflib.get_close_matches(word, every, most, 0.55)
    if near:
        return "did you mean " + " or ".join(repr(one) for one in near) + "?"
    return f"{kind}: {', '.join(every) or 'none'}"


def place(entries: str, index: int, item: Any) -> str:
    """How an entry of a list is called: by its name where it has one."""
    name = item.get("name") if isinstance(item, Mapping) else getattr(item, "name", None)
    return f"{entries}.{name if isinstance(name, str) and name else index}"


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Tables within a ``config`` table as dotted keys: TOML has both ways to write them."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def check_keys(tree: Mapping[str, Any], struct: Any, source: str, path: str = "") -> None:
    """Raise :class:`ScenarioError` at the first key that ``struct`` does not have, at any depth."""
    types = {field.name: field.type for field in msgspec.structs.fields(struct)}
    for key, value in tree.items():
        full = f"{path}.{key}".lstrip(".")
        if key not in types:
            raise ScenarioError(f"{source}: there is no key {full!r}; {nearest(key, types, 'known here', 1)}")
        inner = _entry_type(types[key])
        if inner is not None and isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, Mapping):
                    check_keys(item, inner, source, place(full, index, item))
        elif _is_struct(types[key]) and isinstance(value, Mapping):
            check_keys(value, types[key], source, full)


def convert(tree: Mapping[str, Any], source: str) -> Scenario:
    """The tree as a scenario. Raises :class:`ScenarioError` that names the place of what has a wrong type."""
    try:
        return msgspec.convert(tree, Scenario)
    except msgspec.ValidationError as error:
        for field in msgspec.structs.fields(Scenario):
            inner, entries = _entry_type(field.type), tree.get(field.name)
            for index, item in enumerate(entries if inner is not None and isinstance(entries, list) else ()):
                try:
                    msgspec.convert(item, inner)
                except msgspec.ValidationError as closer:
                    raise ScenarioError(_located(closer, source, place(field.name, index, item))) from None
        raise ScenarioError(_located(error, source, "")) from None


def _located(error: msgspec.ValidationError, source: str, path: str) -> str:
    text = str(error)
    if match := _AT.search(text):
        text, path = text[: match.start()], f"{path}.{match['path']}".strip(".")
    text = text.replace("Object missing required field", "it lacks the key")
    return f"{source}: {path}: {text}" if path else f"{source}: {text}"


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _entry_type(kind: Any) -> Any:
    """The struct of which ``kind`` is a list, if it is one."""
    inner = get_args(kind)[:1]
    return inner[0] if get_origin(kind) is tuple and inner and _is_struct(inner[0]) else None


def assign(tree: dict[str, Any], setting: str) -> None:
    """Apply ``place=value`` to a tree: ``providers.homes.count=5``, ``clients.*.demand.jobs_per_hour=9``.

    The value is TOML where it parses as that, plain text otherwise. An entry of a list goes by its name or number, or
    is every one (``*``). Raises :class:`ScenarioError` for a place that leads nowhere; whether the key exists is for
    :func:`check_keys`.
    """
    source = f"--set {setting}"
    path, separator, text = setting.partition("=")
    if not separator or not path.strip():
        raise ScenarioError(f"{source}: write key=value, for example providers.homes.count=5")
    try:
        value = tomllib.loads(f"v = {text.strip()}")["v"]
    except (tomllib.TOMLDecodeError, RecursionError):
        value = text.strip()
    _assign(tree, path.strip().split("."), value, source, "")


def _assign(node: Any, parts: list[str], value: Any, source: str, path: str) -> None:
    head, rest = parts[0], parts[1:]
    full = f"{path}.{head}".lstrip(".")
    if isinstance(node, list):
        entries = path.rpartition(".")[2]
        chosen = [item for index, item in enumerate(node) if head in ("*", str(index), _name(item))]
        if not chosen or not rest:
            names = ", ".join(_name(item) or str(index) for index, item in enumerate(node)) or "none"
            missing = "names no key of it" if chosen else f"there is no {head!r}"
            raise ScenarioError(f"{source}: {missing}; {entries}: {names}")
        for item in chosen:
            _assign(item, rest, value, source, full)
    elif not isinstance(node, dict):
        raise ScenarioError(f"{source}: {path} is a value, not a table")
    elif rest and head not in FREE_TABLES:
        if head not in node and _entry_type(_field(head)) is not None:
            raise ScenarioError(f"{source}: the scenario has no {head}")
        _assign(node.setdefault(head, {}), rest, value, source, full)
    elif rest:
        table = node.setdefault(head, {})
        if not isinstance(table, dict):
            raise ScenarioError(f"{source}: {full} is a value, not a table")
        if head == "config":
            table = node[head] = flatten(table)
        table[".".join(rest)] = value
    else:
        node[head] = value


def _name(item: Any) -> str:
    name = item.get("name", "") if isinstance(item, Mapping) else ""
    return name if isinstance(name, str) else ""


def _field(name: str) -> Any:
    return next((field.type for field in msgspec.structs.fields(Scenario) if field.name == name), None)
