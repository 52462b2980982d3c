"""What can go wrong with a job, for the user and for the node that tries again.

    CocoonError
    ├── JobError               the root of what is raised here alone
    │   ├── AgreementEnded     the agreement is unknown, over or used up: agree anew, then try again
    │   └── ProtocolError      the other side broke the protocol; its tunnel is dropped
    ├── InvalidRequest, TooLarge, UnknownModel, Busy        as in :mod:`overlay.errors`
    ├── Unfunded
    │   ├── ChannelUnusable    the channel cannot pay for the job, is unknown, or is not served any more
    │   └── RiskCapReached     a cap on the money at risk, set by our own user, forbids it
    └── ProviderGone
        ├── JobFailed          the provider's engine broke, or cost more than was set aside
        └── Overcharged        the provider charges more than was delivered; it gets no more vouchers

On the wire an error is one of :class:`ErrorCode` and a text; :func:`error_of` makes the exception.
"""

from __future__ import annotations

from enum import StrEnum

from overlay.errors import Busy, CocoonError, InvalidRequest, ProviderGone, TooLarge, Unfunded, UnknownModel


class ErrorCode(StrEnum):
    """The kinds of error that a provider answers a job or a payment stream with."""

    BAD_REQUEST = "bad_request"
    TOO_LARGE = "too_large"
    UNKNOWN_MODEL = "unknown_model"
    BUSY = "busy"
    DRAINING = "draining"
    AGREEMENT_UNKNOWN = "agreement_unknown"
    AGREEMENT_ENDED = "agreement_ended"
    AGREEMENT_EXHAUSTED = "agreement_exhausted"
    CHANNEL_UNKNOWN = "channel_unknown"
    CHANNEL_EXHAUSTED = "channel_exhausted"
    CHANNEL_REFUSED = "channel_refused"
    PAYMENT_REQUIRED = "payment_required"
    MAX_AMOUNT = "max_amount"
    ENGINE_FAILED = "engine_failed"
    CANCELLED = "cancelled"
    PROTOCOL = "protocol"


class JobError(CocoonError):
    """A job could not be run."""

    code = "job_failed"


class AgreementEnded(JobError):
    """No job can start under this agreement any more; a new one is needed."""

    code = "agreement_ended"


class ProtocolError(JobError):
    """The other side sent what the protocol forbids; the message says what."""

    code = "protocol_error"


class ChannelUnusable(Unfunded):
    """The payment channel cannot pay for this job, or the provider does not serve it."""


class RiskCapReached(Unfunded):
    """Our own user's cap on the money at risk forbids it: wait for running jobs, or raise the cap."""

    code = "risk_cap"


class JobFailed(ProviderGone):
    """The provider could not finish the job. Only what was delivered is paid for."""


class Overcharged(ProviderGone):
    """The provider charges for more than it delivered. It gets no more vouchers on this channel."""


class Refused(Exception):
    """Inside a provider: why a job or a payment is not served. Becomes an ``error`` message."""

    def __init__(
        self, code: ErrorCode, message: str, *, retry_after_ms: int | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_ms = retry_after_ms
        self.param = param


def error_of(code: ErrorCode, message: str, *, retry_after_ms: int | None, param: str | None) -> CocoonError:
    """The exception for an error that a provider answered with."""
    match code:
        case ErrorCode.BAD_REQUEST:
            return InvalidRequest(message, param=param)
        case ErrorCode.TOO_LARGE:
            return TooLarge(message, param=param)
        case ErrorCode.UNKNOWN_MODEL:
            return UnknownModel(param or "", message)
        case ErrorCode.BUSY | ErrorCode.DRAINING:
            return Busy(message, retry_after_s=max(1, -(-(retry_after_ms or 1000) // 1000)))
        case ErrorCode.AGREEMENT_UNKNOWN | ErrorCode.AGREEMENT_ENDED | ErrorCode.AGREEMENT_EXHAUSTED:
            return AgreementEnded(message)
        case (
            ErrorCode.CHANNEL_UNKNOWN
            | ErrorCode.CHANNEL_EXHAUSTED
            | ErrorCode.CHANNEL_REFUSED
            | ErrorCode.PAYMENT_REQUIRED
        ):
            return ChannelUnusable(message)
        case ErrorCode.MAX_AMOUNT | ErrorCode.ENGINE_FAILED | ErrorCode.CANCELLED:
            return JobFailed(message)
        case ErrorCode.PROTOCOL:
            return ProtocolError(message)
