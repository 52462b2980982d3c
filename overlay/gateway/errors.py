"""Failures in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}`` and the status that goes with it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import msgspec

from compute.tasks import TaskError
from overlay import errors

_log = logging.getLogger(__name__)


@dataclass
class HttpError(Exception):
    """An answer that is a failure. ``retry_after_s`` becomes a header."""

    status: int
    message: str
    code: str
    param: str | None = None
    kind: str = "invalid_request_error"
    retry_after_s: int | None = None
    allow: str = ""
    """The methods of a 405."""

    def body(self) -> bytes:
        """The JSON document."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Headers beyond the usual."""
        extra = []
        if self.retry_after_s is not None:
            extra.append((b"retry-after", b"%d" % self.retry_after_s))
        if self.allow:
            extra.append((b"allow", self.allow.encode()))
        if self.status == 401:
            extra.append((b"www-authenticate", b"Bearer"))
        return extra


_STATUS: dict[type[errors.CocoonError], tuple[int, str]] = {
    # type: status and OpenAI's "type"; the first that fits, so children stand before parents
    errors.TooLarge: (413, "invalid_request_error"),
    errors.InvalidRequest: (400, "invalid_request_error"),
    errors.UnknownModel: (404, "invalid_request_error"),
    errors.Unfunded: (402, "insufficient_quota"),
    errors.NoProvider: (503, "server_error"),
    errors.Busy: (503, "server_error"),
    errors.ProviderGone: (502, "server_error"),
    errors.ChainError: (503, "server_error"),
}

RETRY_AFTER_S = 2
"""Advertised when nobody said how long to wait: a round of gossip."""


def http_error(error: BaseException) -> HttpError:
    """The answer to a failure of any kind. What was not foreseen is logged with its traceback and told as a 500."""
    if isinstance(error, BaseExceptionGroup):
        # A backend with tasks of its own: what it meant to tell us is among what they raised.
        told, _ = error.split((HttpError, TaskError, errors.CocoonError))
        if told is not None or len(error.exceptions) == 1:
            return http_error((told or error).exceptions[0])
    if isinstance(error, HttpError):
        return error
    if isinstance(error, TaskError):
        return HttpError(400, str(error), "invalid_request", error.param)
    if isinstance(error, errors.CocoonError):
        for cls, (status, kind) in _STATUS.items():
            if isinstance(error, cls):
                retry = getattr(error, "retry_after_s", RETRY_AFTER_S) if status == 503 else None
                return HttpError(status, str(error), error.code, getattr(error, "param", None), kind, retry)
        return HttpError(500, str(error), error.code, None, "server_error")
    _log.error("the gateway failed", exc_info=error)
    message = "the gateway failed unexpectedly; its log has the details"
    return HttpError(500, message, "internal_error", None, "server_error")
