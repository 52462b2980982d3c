"""The multipart form of `/v1/audio/transcriptions` (RFC 7578)."""

from __future__ import annotations

from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from overlay.errors import InvalidRequest, TooLarge
from overlay.gateway import limits


@dataclass
class Form:
    """Fields by name, and the bytes of the part called ``file`` (``None`` when there is none)."""

    fields: dict[str, str] = field(default_factory=dict)
    file: bytes | None = None


class _Collector:
    """Takes the parser's callbacks."""

    def __init__(self) -> None:
        self.form = Form()
        self._parts = 0
        self._complete = False
        self._begin()

    def _begin(self) -> None:
        self._name = b""
        self._header = [b"", b""]
        self._disposition = b""
        self._data = bytearray()

    def on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > limits.MAX_FORM_PARTS:
            raise InvalidRequest(f"the form has more than {limits.MAX_FORM_PARTS} parts")
        self._begin()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0] += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1] += data[start:end]

    def on_header_end(self) -> None:
        if self._header[0].lower() == b"content-disposition":
            self._disposition = self._header[1]
        self._header = [b"", b""]

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition.decode("latin-1"))
        self._name = options.get(b"name", b"")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        limit = limits.MAX_AUDIO_BYTES if self._name == b"file" else limits.MAX_FIELD_BYTES
        if len(self._data) + end - start > limit:
            shown = self._name.decode("utf-8", "replace")[:40]
            raise TooLarge(f"{shown} is larger than the {limit} bytes that are taken", param=shown)
        self._data += memoryview(data)[start:end]

    def on_part_end(self) -> None:
        if self._name == b"file":
            self.form.file = bytes(self._data)
        else:
            self.form.fields[self._name.decode("utf-8", "replace")] = self._data.decode("utf-8", "replace")

    def on_end(self) -> None:
        self._complete = True

    @property
    def complete(self) -> bool:
        """Whether the closing boundary was seen."""
        return self._complete


def parse_form(content_type: bytes, body: bytes) -> Form:
    """Take a form apart. Raises :class:`~overlay.errors.InvalidRequest`, and ``TooLarge`` for a part over its limit."""
    _, options = parse_options_header(content_type.decode("latin-1"))
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= 70:
        raise InvalidRequest("the form's Content-Type names no boundary")
    collector = _Collector()
    names = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end", "headers_finished")
    callbacks = {f"on_{name}": getattr(collector, f"on_{name}") for name in (*names, "end")}
    try:
        parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]  # a typed dict, built by name
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequest(f"the form is malformed: {error}") from None
    if not collector.complete:
        raise InvalidRequest("the form is cut off: its closing boundary is missing")
    return collector.form
