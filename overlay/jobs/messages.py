"""The messages of the jobs protocol and their bytes (docs/protocols/jobs.md).

Each is a CBOR list that begins with its name. They travel inside a tunnel, which already authenticates and orders them,
so they are neither signed nor hashed; what needs a signature (vouchers, receipts, agreements) is a byte string inside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cbor2

from compute.codec import event_from_wire, event_to_wire
from compute.tasks import Event, TaskError
from compute.usage import Usage
from overlay.jobs.errors import ErrorCode
from overlay.jobs.limits import (
    JOB_ID_BYTES,
    MAX_AGREEMENT_BYTES,
    MAX_CLAIMS,
    MAX_ERROR_CHARS,
    MAX_PARTS,
    MAX_RECEIPTS_PER_MESSAGE,
    PROTOCOL_VERSION,
)
from overlay.jobs.receipt import SignedReceipt
from transport.wire import WireError

_MAX_DEPTH = 6
_MAX_SUM = 1 << 62


@dataclass(frozen=True, slots=True)
class Open:
    """Client, first on a job's stream: do this. ``channel_ref`` is the number that :class:`Hello` gave the channel in
    this tunnel; ``request`` is ``compute.codec.request_to_wire`` without what ``parts`` names; each part follows as a
    message of its own, of the length given."""

    agreement_id: bytes
    channel_ref: int
    job_id: bytes
    max_amount_nanoton: int
    request: dict[str, Any]
    parts: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class NeedAgreement:
    """Provider: I do not know that agreement, send it."""


@dataclass(frozen=True, slots=True)
class AgreementSent:
    """Client: here it is, as ``overlay.market.Agreement.encode`` has it."""

    body: bytes


@dataclass(frozen=True, slots=True)
class Accepted:
    """Provider: the job runs or waits for its turn."""


@dataclass(frozen=True, slots=True)
class Events:
    """Provider: what the engine gave, in order; never empty."""

    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """Provider, last on a job's stream: the job is complete, and this is its receipt."""

    receipt: SignedReceipt


@dataclass(frozen=True, slots=True)
class Failed:
    """Provider, last on a stream: why it ends early. ``receipt`` is for what was delivered before, if anything."""

    code: ErrorCode
    message: str
    retry_after_ms: int | None = None
    param: str | None = None
    receipt: SignedReceipt | None = None


@dataclass(frozen=True, slots=True)
class VoucherSent:
    """A voucher without its channel, which the stream knows."""

    seq: int
    amount_nanoton: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """Client: this job ended without a receipt, and this is what came of it."""

    job_id: bytes
    agreement_id: bytes
    usage: Usage


@dataclass(frozen=True, slots=True)
class Hello:
    """Client, first on a payment stream: which channel, under which number, and how its books end."""

    channel_ref: int
    channel: str
    head_index: int
    head_hash: bytes
    voucher: VoucherSent | None
    claims: tuple[Claim, ...]


@dataclass(frozen=True, slots=True)
class View:
    """Provider's answer: how its books end."""

    head_index: int
    head_hash: bytes
    voucher: VoucherSent | None


@dataclass(frozen=True, slots=True)
class Receipts:
    """Receipts in the order of their chain: from the client those the provider lost, from the provider new ones."""

    receipts: tuple[SignedReceipt, ...]


@dataclass(frozen=True, slots=True)
class Ready:
    """Provider: jobs may start on this channel."""


@dataclass(frozen=True, slots=True)
class Pay:
    """Client: a higher voucher, a signature under the receipt chain up to ``signed_index``, claims; each optional."""

    voucher: VoucherSent | None = None
    signed_index: int = 0
    signature: bytes | None = None
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True, slots=True)
class Ack:
    """Provider: voucher ``seq`` and the client's signature under receipt ``signed_index`` are on my disk."""

    seq: int
    signed_index: int


@dataclass(frozen=True, slots=True)
class Due:
    """Provider: my credit window is full, pay what you owe."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Client: stop this job; what was sent before stays owed, and its stream ends with a receipt for that."""

    job_id: bytes


@dataclass(frozen=True, slots=True)
class Dispute:
    """Client, last on a payment stream: I do not owe what you charge, and pay no more."""

    reason: str


JobMessage = Open | NeedAgreement | AgreementSent | Accepted | Events | Done | Failed
PaymentMessage = Hello | View | Receipts | Ready | Pay | Ack | Due | Cancel | Dispute | Failed
Message = JobMessage | PaymentMessage

ACCEPTED_BYTES = cbor2.dumps(["accepted"])
"""The one message that every job has and that never differs."""


def encode_events(events: Sequence[Event]) -> bytes:
    """:class:`Events` from the events themselves: the hot path."""
    return cbor2.dumps(["events", [event_to_wire(event) for event in events]])


def encode(message: Message) -> bytes:
    """The bytes of ``message``."""
    return cbor2.dumps(_plain(message))


def _plain(message: Message) -> list[Any]:
    match message:
        case Open():
            return [
                "open",
                PROTOCOL_VERSION,
                message.agreement_id,
                message.channel_ref,
                message.job_id,
                message.max_amount_nanoton,
                message.request,
                [[name, size] for name, size in message.parts],
            ]
        case NeedAgreement():
            return ["need_agreement"]
        case AgreementSent():
            return ["agreement", message.body]
        case Accepted():
            return ["accepted"]
        case Events():
            return ["events", [event_to_wire(event) for event in message.events]]
        case Done():
            return ["done", message.receipt.to_wire()]
        case Failed():
            receipt = None if message.receipt is None else message.receipt.to_wire()
            text = message.message[:MAX_ERROR_CHARS]
            return ["error", message.code.value, text, message.retry_after_ms, message.param, receipt]
        case _:
            return _plain_payment(message)


def _plain_payment(message: PaymentMessage) -> list[Any]:
    match message:
        case Hello():
            return [
                "hello",
                PROTOCOL_VERSION,
                message.channel_ref,
                message.channel,
                message.head_index,
                message.head_hash,
                _plain_voucher(message.voucher),
                _plain_claims(message.claims),
            ]
        case View():
            return ["view", message.head_index, message.head_hash, _plain_voucher(message.voucher)]
        case Receipts():
            return ["receipts", [receipt.to_wire() for receipt in message.receipts]]
        case Ready():
            return ["ready"]
        case Pay():
            signed = None if message.signature is None else [message.signed_index, message.signature]
            return ["pay", _plain_voucher(message.voucher), signed, _plain_claims(message.claims)]
        case Ack():
            return ["ack", message.seq, message.signed_index]
        case Due():
            return ["due"]
        case Cancel():
            return ["cancel", message.job_id]
        case Dispute():
            return ["dispute", message.reason[:MAX_ERROR_CHARS]]
        case _:
            raise AssertionError(f"{type(message).__name__} is no payment message")


def _plain_voucher(voucher: VoucherSent | None) -> list[Any] | None:
    return None if voucher is None else [voucher.seq, voucher.amount_nanoton, voucher.signature]


def _plain_claims(claims: Sequence[Claim]) -> list[Any]:
    return [[claim.job_id, claim.agreement_id, claim.usage.to_wire()] for claim in claims]


def decode(data: bytes, *, max_bytes: int) -> Message:
    """Parse a message. Raises :class:`~transport.wire.WireError` when it is longer than ``max_bytes`` or malformed, and
    :class:`~compute.tasks.TaskError` never: a bad event breaks the protocol like any other bad message."""
    if len(data) > max_bytes:
        raise WireError(f"a message of {len(data)} bytes, where at most {max_bytes} are allowed")
    try:
        value = cbor2.loads(data, max_depth=_MAX_DEPTH, allow_indefinite=False, allow_duplicate_keys=False)
        # One encoding each: nothing trails, nothing is tagged, no number is longer than it must be.
        exact = type(value) is list and bool(value) and cbor2.dumps(value) == data
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise WireError(f"not CBOR: {error}") from error
    if not exact or type(value[0]) is not str:
        raise WireError("a message is a CBOR list that begins with its name, in the shortest encoding")
    parser = _PARSERS.get(value[0])
    if parser is None:
        raise WireError(f"no message is called {value[0][:20]!r}")
    try:
        return parser(value)
    except TaskError as error:
        raise WireError(f"a bad event: {error}") from error


def _fields(value: list[Any], count: int) -> list[Any]:
    if len(value) != count + 1:
        raise WireError(f"{value[0]} has {count} fields, not {len(value) - 1}")
    return value[1:]


def _blob(name: str, value: object, size: int) -> bytes:
    if type(value) is not bytes or len(value) != size:
        raise WireError(f"{name} has {size} bytes")
    return value


def _integer(name: str, value: object, high: int = _MAX_SUM) -> int:
    if type(value) is not int or not 0 <= value < high:
        raise WireError(f"{name} is an integer from 0 to {high - 1}")
    return value


def _text(name: str, value: object, chars: int = MAX_ERROR_CHARS) -> str:
    if type(value) is not str or len(value) > chars:
        raise WireError(f"{name} is a text of at most {chars} characters")
    return value


def _items(name: str, value: object, most: int) -> list[Any]:
    if type(value) is not list or len(value) > most:
        raise WireError(f"{name}: a list of at most {most}")
    return value


def _version(value: object) -> None:
    if value != PROTOCOL_VERSION or type(value) is not int:
        raise WireError(f"only version {PROTOCOL_VERSION} of the jobs protocol is spoken here")


def _open(value: list[Any]) -> Open:
    version, agreement_id, ref, job_id, most, request, parts = _fields(value, 7)
    _version(version)
    if type(request) is not dict or any(type(key) is not str for key in request):
        raise WireError("a request is a map with names as keys")
    sizes = []
    for part in _items("parts", parts, MAX_PARTS):
        if type(part) is not list or len(part) != 2:
            raise WireError("a part is its name and its length")
        sizes.append((_text("a part's name", part[0], 20), _integer("a part's length", part[1])))
    return Open(
        _blob("an agreement's id", agreement_id, 32),
        _integer("a channel's number", ref, 1 << 16),
        _blob("a job's id", job_id, JOB_ID_BYTES),
        _integer("the maximum", most),
        request,
        tuple(sizes),
    )


def _agreement(value: list[Any]) -> AgreementSent:
    (body,) = _fields(value, 1)
    if type(body) is not bytes or len(body) > MAX_AGREEMENT_BYTES:
        raise WireError(f"an agreement has at most {MAX_AGREEMENT_BYTES} bytes")
    return AgreementSent(body)


def _events(value: list[Any]) -> Events:
    (events,) = _fields(value, 1)
    if type(events) is not list or not events:
        raise WireError("events are a list with something in it")
    return Events(tuple([event_from_wire(event) for event in events]))


def _failed(value: list[Any]) -> Failed:
    code, message, retry_after, param, receipt = _fields(value, 5)
    name = _text("an error's code", code, 40)
    try:
        parsed = ErrorCode(name)
    except ValueError as error:
        raise WireError(f"unknown error code {name!r}") from error
    return Failed(
        parsed,
        _text("an error's message", message),
        None if retry_after is None else _integer("retry_after", retry_after, 1 << 32),
        None if param is None else _text("param", param),
        None if receipt is None else SignedReceipt.from_wire(receipt),
    )


def _voucher(value: object) -> VoucherSent | None:
    if value is None:
        return None
    if type(value) is not list or len(value) != 3:
        raise WireError("a voucher is [seq, amount, signature]")
    seq = _integer("a voucher's number", value[0])
    return VoucherSent(seq, _integer("a voucher's amount", value[1]), _blob("a signature", value[2], 64))


def _claims(value: object) -> tuple[Claim, ...]:
    claims = []
    for item in _items("claims", value, MAX_CLAIMS):
        if type(item) is not list or len(item) != 3:
            raise WireError("a claim is [job, agreement, usage]")
        try:
            usage = Usage.from_wire(item[2])
        except ValueError as error:
            raise WireError(f"a claim's usage: {error}") from error
        claims.append(Claim(_blob("a job's id", item[0], JOB_ID_BYTES), _blob("an agreement's id", item[1], 32), usage))
    return tuple(claims)


def _hello(value: list[Any]) -> Hello:
    version, ref, channel, index, head, voucher, claims = _fields(value, 7)
    _version(version)
    return Hello(
        _integer("a channel's number", ref, 1 << 16),
        _text("a channel", channel, 100),
        _integer("an index", index),
        _blob("a hash", head, 32),
        _voucher(voucher),
        _claims(claims),
    )


def _view(value: list[Any]) -> View:
    index, head, voucher = _fields(value, 3)
    return View(_integer("an index", index), _blob("a hash", head, 32), _voucher(voucher))


def _receipts(value: list[Any]) -> Receipts:
    (items,) = _fields(value, 1)
    receipts = _items("receipts", items, MAX_RECEIPTS_PER_MESSAGE)
    return Receipts(tuple([SignedReceipt.from_wire(item) for item in receipts]))


def _pay(value: list[Any]) -> Pay:
    voucher, signed, claims = _fields(value, 3)
    if signed is None:
        return Pay(_voucher(voucher), 0, None, _claims(claims))
    if type(signed) is not list or len(signed) != 2:
        raise WireError("a signature under receipts is [index, signature]")
    index = _integer("an index", signed[0])
    return Pay(_voucher(voucher), index, _blob("a signature", signed[1], 64), _claims(claims))


def _ack(value: list[Any]) -> Ack:
    seq, index = _fields(value, 2)
    return Ack(_integer("a voucher's number", seq), _integer("an index", index))


def _bare(message: Message) -> Callable[[list[Any]], Message]:
    def parse(value: list[Any]) -> Message:
        _fields(value, 0)
        return message

    return parse


_PARSERS: dict[str, Callable[[list[Any]], Message]] = {
    "open": _open,
    "need_agreement": _bare(NeedAgreement()),
    "agreement": _agreement,
    "accepted": _bare(Accepted()),
    "events": _events,
    "done": lambda value: Done(SignedReceipt.from_wire(_fields(value, 1)[0])),
    "error": _failed,
    "hello": _hello,
    "view": _view,
    "receipts": _receipts,
    "ready": _bare(Ready()),
    "pay": _pay,
    "ack": _ack,
    "due": _bare(Due()),
    "cancel": lambda value: Cancel(_blob("a job's id", _fields(value, 1)[0], JOB_ID_BYTES)),
    "dispute": lambda value: Dispute(_text("a reason", _fields(value, 1)[0])),
}
