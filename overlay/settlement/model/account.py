"""An account of the basechain in the model, and the channel's: every phase of a transaction, to the nanoTON.

A transaction collects rent, credits the message, runs (here: :func:`overlay.settlement.model.contract.decide`), carries
out what was decided and, when it failed, sends the rest of the value back (TON block.tlb ``trans_ord``; docs.ton.org,
"Transaction phases"). One thing is left out, and says so by :class:`ModelEnds`: a channel whose rent has eaten its
whole reserve, which takes more than two years.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from overlay.settlement.cells import ChannelTerms, StoredChannel, channel_code
from overlay.settlement.model.contract import Decision, Incoming, Mode, Reserve, Send, decide
from overlay.settlement.model.fees import Prices, Size, size_of
from overlay.settlement.transactions import BOUNCED_OP

OUT_OF_GAS = -14


class ModelEnds(Exception):
    """What happened is outside of what the model describes."""


@dataclass(frozen=True)
class ModelMessage:
    """A message on its way. ``body`` is its cell where the receiver reads one (a channel does), else the operation and
    its numbers are all there is. ``forward_fee_nanoton`` is what the receiving side's validators still get.
    """

    source: str
    destination: str
    value_nanoton: int
    forward_fee_nanoton: int = 0
    bounce: bool = False
    bounced: bool = False
    op: int | None = None
    query_id: int = 0
    fields: tuple[int, ...] = ()
    body: Any = None
    deploys: bool = False


@dataclass(frozen=True)
class Outcome:
    """One transaction. ``exit_code`` is ``None`` when nothing ran; ``path`` names the way through the contract."""

    path: str
    exit_code: int | None
    gas_used: int
    fee_nanoton: int
    sent: tuple[ModelMessage, ...] = ()

    @property
    def success(self) -> bool:
        """Whether the message did what it asked for."""
        return self.exit_code == 0


def balance_bits(nanoton: int) -> int:
    """``Grams``: four bits of length and that many bytes."""
    return 4 + 8 * ((nanoton.bit_length() + 7) // 8)


@dataclass
class Account(ABC):
    """Rent and status: what every account has."""

    address: str
    prices: Prices
    status: Literal["none", "uninit", "active"] = "none"
    balance_nanoton: int = 0
    due_nanoton: int = 0
    paid_until_s: int = 0

    @abstractmethod
    def state_size(self) -> Size:
        """Code and data of an active account."""

    def size(self) -> Size:
        """``AccountStorage``: logical time, balance and state, as rent counts them."""
        bits = 64 + balance_bits(self.balance_nanoton) + 1
        if self.status == "active":
            return self.state_size() + Size(bits + 6, 1)
        return Size(bits + 2, 1)

    def collect(self, value_nanoton: int, now: int, *, credit_first: bool) -> tuple[int, int]:
        """The storage and credit phases. Returns what is left of the value, and the fees collected."""
        rent = self.due_nanoton
        if self.status != "none" and self.paid_until_s:
            rent += self.prices.storage_fee(self.size(), now - self.paid_until_s)
        self.paid_until_s = now
        if credit_first:
            self.balance_nanoton += value_nanoton
        collected = min(rent, self.balance_nanoton)
        self.balance_nanoton -= collected
        self.due_nanoton = rent - collected
        if credit_first:
            return min(value_nanoton, self.balance_nanoton), collected
        self.balance_nanoton += value_nanoton
        return value_nanoton, collected

    def bounce(self, message: ModelMessage, value_nanoton: int, gas_fee: int) -> tuple[tuple[ModelMessage, ...], int]:
        """The bounce phase: send back what is left of the value. Returns the message, if there is one, and its fee."""
        if not message.bounce:
            return (), 0
        fee = self.prices.forward_fee(Size())
        back = value_nanoton - gas_fee - fee
        if back < 0:
            return (), 0
        self.balance_nanoton -= back + fee
        kept = self.prices.kept(fee)
        returned = ModelMessage(
            self.address, message.source, back, fee - kept, bounced=True, op=message.op, query_id=message.query_id
        )
        return (returned,), kept

    def settle_status(self) -> None:
        """An account without code and without money is no account."""
        if self.status != "active" and not self.balance_nanoton and not self.due_nanoton:
            self.status = "none"
        elif self.status == "none":
            self.status = "uninit"


@cache
def _code_size() -> Size:
    return size_of(channel_code())


@dataclass
class ChannelAccount(Account):
    """A channel: the account at the address of ``terms``. ``gas`` maps paths to what they cost."""

    terms: ChannelTerms = field(kw_only=True)
    gas: Mapping[str, int] = field(kw_only=True)
    network_id: int = field(kw_only=True)
    state: StoredChannel | None = None

    def state_size(self) -> Size:
        """The contract's code, and its two data cells."""
        assert self.state is not None
        root = balance_bits(self.state.paid_nanoton) + balance_bits(self.state.deposit_nanoton) + 267 + 256 + 64 + 32
        return _code_size() + Size(root + 267 + 256 + 64 + 32 + 32, 2)

    def receive(self, message: ModelMessage, now: int) -> Outcome:
        """Run one message. Raises :class:`ModelEnds` when rent has eaten the reserve."""
        value, fees = self.collect(message.value_nanoton, now, credit_first=not message.bounce)
        limit = self.prices.gas_bought(value)
        if limit and self.status != "active" and message.deploys:
            self.status, self.state = "active", StoredChannel(False, 0, 0, 0, self.terms)
        if self.status != "active" or not limit:
            path = "no gas" if not limit else "no state"
            sent, kept = self.bounce(message, value, 0)
            self.settle_status()
            return Outcome(path, None, 0, fees + kept, sent)
        assert self.state is not None
        held = self.balance_nanoton - value
        decision = decide(
            self.state,
            Incoming(self.address, message.source, value, held, message.body, now, self.network_id),
        )
        used = self.gas.get(decision.path)
        if used is None:
            raise ModelEnds(f"the gas of {decision.path!r} is not known: run the calibration")
        if used > limit:
            decision, used = Decision("out of gas", OUT_OF_GAS), limit
        gas_fee = self.prices.gas_fee(used)
        self.balance_nanoton -= gas_fee
        if decision.exit_code:
            sent, kept = self.bounce(message, value, gas_fee)
            return Outcome(decision.path, decision.exit_code, used, fees + gas_fee + kept, sent)
        out, kept = self._carry_out(decision.actions, value - gas_fee)
        self.state = decision.state
        if any(isinstance(action, Send) and action.mode is Mode.LAST for action in decision.actions):
            self.status, self.state, self.due_nanoton = "none", None, 0
        return Outcome(decision.path, 0, used, fees + gas_fee + kept, out)

    def _carry_out(self, actions: Sequence[Reserve | Send], change: int) -> tuple[tuple[ModelMessage, ...], int]:
        """The action phase: ``change`` is what the incoming value has left after gas."""
        fee = self.prices.forward_fee(Size())  # every message of the contract fits into its root cell
        kept = self.prices.kept(fee)
        reserved, sent = 0, []
        for action in actions:
            if isinstance(action, Reserve):
                taken, reserved = action.nanoton, reserved + action.nanoton
            else:
                spent = {
                    Mode.EXACT: action.nanoton + fee,
                    Mode.WITH_CHANGE: action.nanoton + change,
                    Mode.ALL: self.balance_nanoton,
                    Mode.LAST: self.balance_nanoton,
                }[action.mode]
                taken = spent
                sent.append(
                    ModelMessage(
                        self.address, action.to, spent - fee, fee - kept, op=action.op, query_id=action.query_id,
                        fields=action.fields,
                    )
                )  # fmt: skip
            if taken < 0 or taken > self.balance_nanoton or (sent and sent[-1].value_nanoton < 0):
                raise ModelEnds("rent has eaten the reserve")
            self.balance_nanoton -= taken
        self.balance_nanoton += reserved
        return tuple(sent), kept * len(sent)


__all__ = ["BOUNCED_OP", "Account", "ChannelAccount", "ModelEnds", "ModelMessage", "Outcome"]
