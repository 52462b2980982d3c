"""What the channel contract costs, at mainnet's prices, in the real TVM: its part of ``cocoon bench settlement``.

Method. A devnet (the TVM and the configuration of ``@ton/sandbox``) with two real wallets v5r1, both deployed before
anything is counted, and a clock that stands still. *A channel's whole life* is everything that leaves both parties'
pockets from the first message to the last: what the two wallets hold before, less what they hold after, divided by
the number of channels, when nothing is in flight any more and every channel is gone. So it counts the external
messages' import fees, the wallets' gas, every forward fee, the channels' gas and the gas with which the wallets take
in what comes back; not the rent, which grows with time (given beside it, for a month). Channels are opened 250 with a
wallet message, without answers (query id 0), and end by claim-and-close in messages of 255.

Nothing here depends on the machine: the same contract gives the same numbers everywhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from overlay.settlement.cells import ChannelTerms, claim_body, top_up_body
from overlay.settlement.chain import TonClient, WalletAccount, claim, open_channel
from overlay.settlement.chain.operations import Claim
from overlay.settlement.devnet import Devnet
from overlay.settlement.errors import OperationFailed
from overlay.settlement.limits import (
    ATTACHED_MIN_NANOTON,
    ATTACHED_NANOTON,
    MAX_TRANSFERS,
    MIN_DEPOSIT_NANOTON,
    RENT_RESERVE_NANOTON,
)
from overlay.settlement.voucher import Voucher, channel_public_key
from overlay.settlement.wallet import Transfer, Wallet, wallet_seqno

if TYPE_CHECKING:
    from simulations.bench.report import Row

_TON = 10**9
_PAYER_SEED, _PAYEE_SEED = b"a" * 32, b"b" * 32
_DEPOSIT = _TON
_OPENS_PER_MESSAGE = 250
"""So many openings fit the 65,535 bytes of an external message (254 bytes each: the code is in it once)."""

PROTOTYPE_CLAIM_GAS = 5913
MONTH_S = 30 * 86_400


@dataclass(frozen=True)
class Life:
    """A channel's whole life, in nanoTON a channel. ``open`` and ``settle`` sum to ``whole``."""

    channels: int
    whole: int
    open: int
    settle: int
    claim_only: int


@dataclass(frozen=True)
class ContractCosts:
    """Everything measured: gas of a claim, the lives, and what a wallet needs to begin."""

    claim_gas: int
    relayed_claim_gas: int
    batched: Life
    single: Life
    rent_month: int
    smallest_start: int


class _Bench:
    def __init__(self, devnet: Devnet, client: TonClient, payer: WalletAccount, payee: WalletAccount) -> None:
        self.devnet, self.client, self.payer, self.payee = devnet, client, payer, payee
        self._nonce = 1

    def terms(self) -> ChannelTerms:
        self._nonce += 1
        return ChannelTerms(
            payer=self.payer.address, payee=self.payee.address, payer_key=channel_public_key(_PAYER_SEED),
            payee_key=channel_public_key(_PAYEE_SEED), network_id=self.client.network_id, nonce=self._nonce,
            expiry_s=self.devnet.ledger.now + 86_400, challenge_period_s=3600,
        )  # fmt: skip

    async def pockets(self) -> int:
        """What both wallets hold when nothing is on its way."""
        while self.devnet.totals().in_flight_nanoton:
            await self.client.next_block()
        return await self.payer.balance_nanoton() + await self.payee.balance_nanoton()

    async def open_quietly(self, terms: Sequence[ChannelTerms], deposit: int = _DEPOSIT) -> None:
        value = deposit + RENT_RESERVE_NANOTON + ATTACHED_MIN_NANOTON
        for start in range(0, len(terms), _OPENS_PER_MESSAGE):
            opened = terms[start : start + _OPENS_PER_MESSAGE]
            await self.send(
                self.payer, [Transfer(t.address(), value, top_up_body(0, deposit), t.state_init()) for t in opened]
            )

    async def claim(self, terms: Sequence[ChannelTerms], seq: int, amount: int, *, close: bool = False) -> None:
        transfers = []
        for query_id, each in enumerate(terms, 1):
            voucher = Voucher(each.address(), each.network_id, seq, amount)
            body = claim_body(query_id, voucher.sign(_PAYER_SEED), voucher.to_cell(), close=close)
            transfers.append(Transfer(each.address(), ATTACHED_NANOTON, body))
        await self.send(self.payee, transfers)

    async def send(self, account: WalletAccount, transfers: Sequence[Transfer]) -> None:
        """Hand a wallet's message straight to the devnet: the TVM takes seconds for it, and a client asks again."""
        state = await self.client.account_state(account.address)
        assert state is not None
        message = account.wallet.sign_transfers(
            transfers, seqno=wallet_seqno(state.data), valid_until_s=state.utime_s + 60, deploy=False
        )
        await self.devnet.submit(message.to_boc())

    async def life(self, channels: int) -> Life:
        """Open, claim and close ``channels`` at once; beside it, what a batch of plain claims adds to a life."""
        terms = [self.terms() for _ in range(channels)]
        before = await self.pockets()
        await self.open_quietly(terms)
        held = sum([(await self.client.channel_state(each)).balance_nanoton for each in terms])
        opened = await self.pockets()
        await self.claim(terms, 1, _DEPOSIT // 4)
        claimed = await self.pockets()
        await self.claim(terms, 2, _DEPOSIT // 2, close=True)
        ended = await self.pockets()
        claim_only = opened + channels * (_DEPOSIT // 4) - claimed
        opening = before - held - opened
        whole = before - ended - claim_only
        return Life(channels, *(each // channels for each in (whole, opening, whole - opening, claim_only)))

    async def claim_gas(self) -> tuple[int, int]:
        """Gas of a claim sent by the payee, and by another."""
        terms = self.terms()
        await open_channel(self.payer, terms, _DEPOSIT)
        found = []
        for seq, sender in ((1, self.payee), (2, self.payer)):
            each = _signed(terms, seq, seq * _DEPOSIT // 4)
            await claim(sender, terms, each.voucher, each.signature)
            found.append(self.devnet.ledger.transactions(terms.address())[-1].gas_used)
        return found[0], found[1]

    async def rent(self, sleep: Callable[[int], Awaitable[None]]) -> int:
        """What a channel pays for a month of storage."""
        terms = replace(self.terms(), expiry_s=self.devnet.ledger.now + 2 * MONTH_S)
        before = (await open_channel(self.payer, terms, _DEPOSIT)).state.balance_nanoton
        await sleep(MONTH_S)
        each = _signed(terms, 1, _DEPOSIT // 4)
        after = (await claim(self.payer, terms, each.voucher, each.signature)).state.balance_nanoton
        return before - _DEPOSIT // 4 - after

    async def smallest_start(self) -> int:
        """The least money, in steps of 0.001 TON, with which a fresh wallet opens a channel of the least deposit."""
        given = MIN_DEPOSIT_NANOTON + RENT_RESERVE_NANOTON + ATTACHED_NANOTON
        while True:
            account = WalletAccount(self.client, Wallet(given.to_bytes(32, "big"), self.client.network_id))
            await self.devnet.fund(account.address, given)
            terms = replace(self.terms(), payer=account.address)
            try:
                state = (await open_channel(account, terms, MIN_DEPOSIT_NANOTON)).state
            except OperationFailed:  # too little, whether the client noticed or the wallet
                given += _TON // 1000
                continue
            assert state.spendable_nanoton == MIN_DEPOSIT_NANOTON
            return given


def _signed(terms: ChannelTerms, seq: int, amount: int) -> Claim:
    voucher = Voucher(terms.address(), terms.network_id, seq, amount)
    return Claim(terms, voucher, voucher.sign(_PAYER_SEED))


async def measure_contract(*, channels: int = MAX_TRANSFERS) -> ContractCosts:
    """Measure everything on a devnet of its own; ``channels`` are settled in one batch. Takes about 20 s for 255."""
    now = [2_000_000_000]

    def clock() -> float:
        return float(now[0])

    async with Devnet.serve(clock=clock) as devnet, TonClient.connect(devnet.global_config(), clock=clock) as client:
        payer, payee = (WalletAccount(client, Wallet(seed * 32, client.network_id)) for seed in (b"1", b"2"))
        for account in (payer, payee):
            await devnet.fund(account.address, 1000 * _TON)
        bench = _Bench(devnet, client, payer, payee)

        async def sleep(seconds: int) -> None:
            now[0] += seconds
            await devnet.seal()

        claim_gas, relayed = await bench.claim_gas()  # also deploys both wallets
        single = await bench.life(1)
        batched = await bench.life(channels)
        return ContractCosts(
            claim_gas, relayed, batched, single, await bench.rent(sleep), await bench.smallest_start()
        )  # fmt: skip


async def contract_rows(quick: bool) -> dict[str, Row]:
    """The contract's rows of ``cocoon bench settlement``, by their ids. ``quick`` settles 16 at once, not 255."""
    from simulations.bench.report import row

    costs = await measure_contract(channels=16 if quick else MAX_TRANSFERS)
    single, batched = costs.single, costs.batched
    rows = [
        row("claim_gas", "claim gas, sent by the payee", [costs.claim_gas], "gas", at_most=PROTOTYPE_CLAIM_GAS),
        row("claim_gas_relayed", "claim gas, relayed", [costs.relayed_claim_gas], "gas", at_most=PROTOTYPE_CLAIM_GAS),
        row(
            "channel_life", f"a channel's whole life on chain, settled in a batch of {batched.channels}",
            [batched.whole / _TON], "TON", at_most=0.005, opening=batched.open / _TON, settling=batched.settle / _TON,
            rent_of_a_month=costs.rent_month / _TON,
        ),
        row("channel_settlement", f"of that, claim and close in a batch of {batched.channels}",
            [batched.settle / _TON], "TON", at_most=0.005),
        row("batched_claim", f"a claim that leaves the channel open, in a batch of {batched.channels}",
            [batched.claim_only / _TON], "TON"),
        row("channel_life_single", "a channel's whole life on chain, opened and settled alone",
            [single.whole / _TON], "TON", opening=single.open / _TON, settling=single.settle / _TON),
        row("smallest_start", "smallest useful deposit to start buying: all that the wallet needs",
            [costs.smallest_start / _TON], "TON", at_most=0.2, deposit=MIN_DEPOSIT_NANOTON / _TON,
            rent_reserve=RENT_RESERVE_NANOTON / _TON, attached=ATTACHED_NANOTON / _TON),
    ]  # fmt: skip
    return {each.id: each for each in rows}
