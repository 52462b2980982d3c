"""Lives and attacks of channels, written once as data.

Together they go every way through the contract: :mod:`overlay.settlement.model.calibrate` takes the gas table from
them, a test runs them through the model and the real TVM, and an oracle in JavaScript encodes and runs them again with
``@ton/core`` and ``@ton/sandbox``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from overlay.settlement.limits import ATTACHED_MIN_NANOTON, MAX_LIFETIME_S, RENT_RESERVE_NANOTON
from overlay.settlement.model.steps import Stage, Step, Who

_TON = 10**9
_VALUE = 2 * ATTACHED_MIN_NANOTON
_DAY_S = 86_400


@dataclass(frozen=True)
class Scenario:
    """Messages to one channel, in order. ``codes`` are the exit codes they must end with (``None``: nothing ran)."""

    name: str
    steps: Sequence[Step]
    codes: Sequence[int | None]
    stage: Stage = field(default_factory=Stage)


def top_up(at_s: int = 0, amount: int = 10 * _TON, *, sender: Who = "payer", query_id: int = 7) -> Step:
    """A deposit with what it needs: the rent reserve and gas beside it."""
    value = amount + RENT_RESERVE_NANOTON + _VALUE
    return Step(at_s, sender, "top_up", value, amount, query_id=query_id, deploys=at_s == 0)


def claim(at_s: int, amount: int, *, sender: Who = "payee", signer: Who = "payer", close: bool = False) -> Step:
    """A claim of a voucher over ``amount``."""
    return Step(at_s, sender, "claim", _VALUE, amount, signer=signer, close=close)


def close_together(at_s: int, amount: int, *, sender: Who = "payee") -> Step:
    """A close that both have signed."""
    return Step(at_s, sender, "close_together", _VALUE, amount, valid_for_s=at_s + 60)


def start_refund(at_s: int, *, sender: Who = "payer") -> Step:
    """The payer asks for its deposit."""
    return Step(at_s, sender, "start_refund", _VALUE)


def finish_refund(at_s: int, *, sender: Who = "payer") -> Step:
    """Somebody ends the channel after the challenge."""
    return Step(at_s, sender, "finish_refund", _VALUE)


def _lives() -> list[Scenario]:
    opened, due = top_up(), _DAY_S + 3600
    return [
        Scenario(
            "the payee claims twice and closes with a third voucher",
            [opened, claim(60, _TON), claim(120, 3 * _TON + 1), claim(180, 4 * _TON, close=True)],
            [0, 0, 0, 0],
        ),
        Scenario(
            "a relayed voucher still serves the payee to close",
            [opened, claim(60, _TON, sender="relayer"), claim(90, _TON, close=True)],
            [0, 0, 0],
        ),
        Scenario(
            "a top-up without an answer leaves its change in the channel until the refund",
            [top_up(query_id=0), top_up(5, query_id=0), claim(9, 20 * _TON), start_refund(10), finish_refund(due)],
            [0, 0, 0, 0, 0],
        ),
        *(
            Scenario(f"both close together, sent by the {who}", [opened, close_together(60, _TON, sender=who)], [0, 0])
            for who in ("payer", "payee", "relayer")
        ),
        *(
            Scenario(
                f"both close together with nothing more due, sent by the {who}",
                [opened, claim(30, _TON), close_together(60, _TON, sender=who)],
                [0, 0, 0],
            )
            for who in ("payer", "relayer")
        ),
        *(
            Scenario(
                f"a refund is started, answered with a voucher and finished by the {who}",
                [opened, start_refund(60), claim(70, 2 * _TON), finish_refund(due, sender=who)],
                [0, 0, 0, 0],
            )
            for who in ("payer", "payee", "relayer")
        ),
        Scenario(
            "a month passes between two claims of another",
            [opened, claim(60, _TON, sender="relayer"), claim(30 * _DAY_S, 10 * _TON, sender="relayer")],
            [0, 0, 0],
            Stage(expiry_s=60 * _DAY_S),
        ),
    ]


def _refusals() -> list[Scenario]:
    opened, good = top_up(), claim(60, 2 * _TON)
    agreed = close_together(60, 2 * _TON)
    paid = claim(30, _TON)
    low = ATTACHED_MIN_NANOTON - 1

    def refused(name: str, step: Step, code: int | None, *before: Step, stage: Stage | None = None) -> Scenario:
        return Scenario(name, [*before, step], [*([0] * len(before)), code], stage or Stage())

    return [
        refused("a stale voucher is refused", claim(60, _TON), 105, opened, paid),
        refused("a stale voucher does not close", claim(60, _TON - 1, close=True), 105, opened, paid),
        refused("a voucher above the deposit is refused", claim(60, 10 * _TON + 1), 106, opened),
        refused("only the payee closes with a voucher", replace(good, sender="payer", close=True), 102, opened),
        refused("a voucher that the payee signed itself is refused", replace(good, signer="payee"), 104, opened),
        refused("a voucher without a signature is refused", replace(good, signer="nobody"), 104, opened),
        refused("a voucher of another channel is refused", replace(good, channel="other"), 110, opened),
        refused("a voucher of another chain is refused", replace(good, network_id=-3), 110, opened),
        refused("a claim without gas money is refused", replace(good, value_nanoton=low), 108, opened),
        refused("a claim for next to nothing runs out of gas", replace(good, value_nanoton=10**5), -14, opened),
        refused("a claim with nothing attached does not run", replace(good, value_nanoton=0), None, opened),
        refused("a claim on a channel that is not there does not run", good, None),
        refused("a stranger cannot top up", top_up(9, sender="relayer"), 101, opened),
        refused("the payer cannot top up while closing", top_up(90), 103, opened, start_refund(60)),
        refused("a channel of another chain takes no money", opened, 110, stage=Stage(network_id=-3)),
        refused("an expired channel takes no money", top_up(_DAY_S), 109, opened),
        refused("a life too long is refused", opened, 111, stage=Stage(expiry_s=MAX_LIFETIME_S + 1)),
        refused("a deposit too small is refused", top_up(amount=_TON // 10 - 1), 112),
        refused("a top-up by nothing is refused", replace(opened, amount_nanoton=0), 112),
        refused("a deposit that was not sent along is refused", replace(opened, value_nanoton=10 * _TON), 108),
        refused("a close without gas money is refused", replace(agreed, value_nanoton=low), 108, opened),
        refused("a close that the payer did not sign is refused", replace(agreed, signer="payee"), 104, opened),
        refused("a close that the payee did not sign is refused", replace(agreed, cosigner="payer"), 104, opened),
        refused("a close of another channel is refused", replace(agreed, channel="other"), 110, opened),
        refused("a close of another chain is refused", replace(agreed, network_id=-3), 110, opened),
        refused("a close out of date is refused", replace(agreed, valid_for_s=59), 109, opened),
        refused("a close below what was paid is refused", close_together(60, _TON - 1), 105, opened, paid),
        refused("a close above the deposit is refused", close_together(60, 10 * _TON + 1), 106, opened),
        refused("only the payer starts a refund", start_refund(60, sender="payee"), 101, opened),
        refused("a refund cannot be started twice", start_refund(61), 103, opened, start_refund(60)),
        refused("a refund without gas money is refused", replace(start_refund(60), value_nanoton=low), 108, opened),
        refused("a refund that was not started cannot be finished", finish_refund(2 * _DAY_S), 103, opened),
        refused("a refund cannot be finished early", finish_refund(_DAY_S + 3599), 107, opened, start_refund(60)),
        refused(
            "finishing a refund without gas money is refused",
            replace(finish_refund(_DAY_S + 3600), value_nanoton=low), 108, opened, start_refund(60),
        ),
        refused("a plain transfer bounces", Step(60, "payer", "empty", _TON), 0xFFFF, opened),
        refused("an unknown operation bounces", Step(60, "payer", "unknown", _TON), 0xFFFF, opened),
        refused("a bounced message does nothing", Step(60, "payee", "bounced", _TON), 0xFFFF, opened),
        Scenario(
            "a refused deployment leaves a channel without money, which can still be opened",
            [replace(good, deploys=True), replace(top_up(90), deploys=True), claim(95, _TON)],
            [106, 0, 0],
        ),
        Scenario(
            "a voucher cannot be claimed again after the end",
            [opened, claim(30, _TON, close=True), claim(60, _TON), replace(claim(90, _TON), deploys=True)],
            [0, 0, None, 106],
        ),
    ]  # fmt: skip


SCENARIOS: tuple[Scenario, ...] = (*_lives(), *_refusals())
"""All of them; each name is a sentence, and they are all different."""

assert len({each.name for each in SCENARIOS}) == len(SCENARIOS)
