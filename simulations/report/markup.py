"""Elements of the page. Text becomes markup in one way only, through the serializer, which escapes it: whatever a
scenario, a node or a peer wrote stays text."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from xml.etree.ElementTree import Element, tostring

from simulations.report import limits

_REPLACED = "\N{REPLACEMENT CHARACTER}"
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

Child = Element | str | None


def clean(text: str, longest: int = limits.TEXT_CHARACTERS) -> str:
    """Text from a file, cut to ``longest`` and readable: no control characters, and none that turn the reading
    direction of what follows."""
    if len(text) > longest:
        text = text[: longest - 1] + "…"
    return text if text.isascii() and text.isprintable() else "".join(map(_replaced, text))


def _replaced(character: str) -> str:
    if character in "\n\t":
        return " "
    if character in _DIRECTIONS or unicodedata.category(character) in ("Cc", "Cs", "Cn"):
        return _REPLACED
    return character


def element(tag: str, *children: Child, **attributes: str | None) -> Element:
    """An element with children in order. ``None`` is left out, of children and of attributes; a trailing underscore of
    an attribute's name is dropped, others become hyphens: ``class_``, ``aria_label``."""
    made = Element(
        tag,
        {
            name.rstrip("_").replace("_", "-"): _scrubbed(value)
            for name, value in attributes.items()
            if value is not None
        },
    )
    extend(made, children)
    return made


def extend(parent: Element, children: Iterable[Child]) -> None:
    """Append children to an element, texts among them."""
    for child in children:
        if child is None:
            continue
        if isinstance(child, Element):
            parent.append(child)
        elif len(parent):
            parent[-1].tail = (parent[-1].tail or "") + _scrubbed(child)
        else:
            parent.text = (parent.text or "") + _scrubbed(child)


def _scrubbed(text: str) -> str:
    """What no page may hold is in no text, cleaned before or not."""
    return text if text.isprintable() else "".join(map(_replaced, text))


def document(root: Element) -> str:
    """The page as text."""
    return "<!doctype html>\n" + tostring(root, encoding="unicode", method="html") + "\n"
