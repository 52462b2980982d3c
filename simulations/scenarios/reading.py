"""Scenarios from TOML and back: :func:`read` checks all of one before anything runs."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import tomli_w

from simulations.scenarios import limits
from simulations.scenarios.checks import check
from simulations.scenarios.model import Scenario
from simulations.scenarios.registries import Registries
from simulations.scenarios.tree import ScenarioError, assign, check_keys, convert, flatten, nearest


class Shipped(NamedTuple):
    """A scenario that comes with the program."""

    name: str
    title: str
    about: str


def shipped() -> list[Shipped]:
    """The scenarios that come with the program, by name."""
    found = []
    for file in sorted(_shipped_files(), key=lambda file: file.name):
        tree = tomllib.loads(file.read_text("utf-8"))
        found.append(Shipped(file.name.removesuffix(".toml"), tree.get("title", ""), tree.get("about", "")))
    return found


def _shipped_files() -> list[Any]:
    folder = resources.files("simulations.scenarios") / "shipped"
    return [file for file in folder.iterdir() if file.name.endswith(".toml")] if folder.is_dir() else []


def read(which: str | Path, *, settings: Sequence[str] = (), known: Registries | None = None) -> Scenario:
    """The scenario in a file, or the shipped one of that name, with ``settings`` (``place=value``) applied.

    ``known`` are the names that it may use (default: those of the world). Raises :class:`ScenarioError`.
    """
    text, source, name = _load(which)
    try:
        tree = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ScenarioError(f"{source}: {error}") from None
    tree.setdefault("name", name)
    return from_tree(tree, source, settings=settings, known=known)


def from_tree(
    tree: Mapping[str, Any], source: str, *, settings: Sequence[str] = (), known: Registries | None = None
) -> Scenario:
    """A parsed TOML document as a checked scenario; ``source`` begins every message. Raises :class:`ScenarioError`."""
    owned: dict[str, Any] = msgspec.to_builtins(tree)  # a copy: settings change it
    for setting in settings:
        assign(owned, setting)
    for entries in ("providers", "clients"):
        groups = owned.get(entries)
        for group in groups if isinstance(groups, list) else ():
            if isinstance(group, dict) and isinstance(group.get("config"), dict):
                group["config"] = flatten(group["config"])
    check_keys(owned, Scenario, source)
    scenario = convert(owned, source)
    check(scenario, source, Registries.of_the_world() if known is None else known)
    return scenario


def recheck(scenario: Scenario, source: str, *, known: Registries | None = None) -> Scenario:
    """A changed scenario, checked again. Raises :class:`ScenarioError`."""
    check(scenario, source, Registries.of_the_world() if known is None else known)
    return scenario


def source_text(which: str | Path) -> str:
    """A scenario's file as it was written, comments included. Raises :class:`ScenarioError`."""
    return _load(which)[0]


def _load(which: str | Path) -> tuple[str, str, str]:
    """Text, how messages call it, and name."""
    path = Path(which)
    if isinstance(which, str) and path.suffix != ".toml" and path.name == which and not path.is_file():
        names = {file.name.removesuffix(".toml"): file for file in _shipped_files()}
        if which not in names:
            raise ScenarioError(
                f"there is no scenario {which!r}; {nearest(which, names, 'shipped')} "
                "(`cocoon sim list` tells about them; a file of yours ends in .toml)"
            )
        return names[which].read_text("utf-8"), f"{which} (shipped)", which
    try:
        with path.open("rb") as file:
            data = file.read(limits.MAX_FILE_BYTES + 1)
        if len(data) > limits.MAX_FILE_BYTES:
            raise ScenarioError(f"{path}: larger than {limits.MAX_FILE_BYTES} bytes; that is no scenario")
        return data.decode("utf-8"), str(path), path.stem
    except FileNotFoundError:
        raise ScenarioError(f"{path}: no such file; `cocoon sim list` shows the scenarios that are shipped") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}: {error}") from None


def to_tree(scenario: Scenario) -> dict[str, Any]:
    """A scenario as a TOML document's tree, without what is as by default."""
    tree: dict[str, Any] = _plain(scenario)
    return tree


def _plain(value: Any) -> Any:
    if not isinstance(value, msgspec.Struct):
        return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else msgspec.to_builtins(value)
    tree = {}
    for field in msgspec.structs.fields(value):
        inner = getattr(value, field.name)
        default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory
        if default is not msgspec.NODEFAULT and inner == (default() if callable(default) else default):
            continue
        tree[field.name] = _plain(inner)
    return tree


def dump(scenario: Scenario) -> str:
    """The TOML of a scenario: :func:`read` gives back an equal one."""
    return tomli_w.dumps(to_tree(scenario))
