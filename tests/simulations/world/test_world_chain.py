import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from overlay.chain import Chain
from overlay.settlement import ChannelTerms, CloseAgreement, InsufficientFunds, Voucher
from overlay.settlement.chain import claim, cooperative_close, finish_refund, open_channel, start_refund
from overlay.settlement.chain.operations import ChannelRefused
from overlay.settlement.errors import ChainUnavailable
from overlay.settlement.limits import REQUEST_TIMEOUT_S
from overlay.settlement.wallet import Wallet
from simulations.network import EPOCH_S
from simulations.world.chain import NETWORK_ID, Connection, SimulatedChain, chain_of

TON = 1_000_000_000
BLOCK_S = 5.0


class Town:
    """A payer and a payee on one simulated chain."""

    def __init__(self) -> None:
        self.chain = SimulatedChain(lambda: EPOCH_S + trio.current_time(), block_s=BLOCK_S)
        self.ways = [Connection(0.5), Connection(0.5)]
        self.payer, self.payee = (self.party(seed) for seed in range(2))

    def party(self, seed: int) -> Chain:
        wallet = Wallet(bytes([seed + 1] * 32), NETWORK_ID)
        self.chain.fund(wallet, 5 * TON)
        return chain_of(self.chain, wallet, bytes([seed + 11] * 32), self.ways[seed], random.Random(seed))

    def terms(self, lasts_s: int = 3600) -> ChannelTerms:
        return ChannelTerms(
            payer=self.payer.account.address, payee=self.payee.account.address, payer_key=self.payer.channel_key,
            payee_key=self.payee.channel_key, network_id=NETWORK_ID, nonce=7, expiry_s=int(EPOCH_S) + lasts_s,
            challenge_period_s=600,
        )  # fmt: skip


@asynccontextmanager
async def town() -> AsyncIterator[Town]:
    async with trio.open_nursery() as nursery:
        place = Town()
        nursery.start_soon(place.chain.run)
        yield place
        assert place.chain.model.conserved()
        nursery.cancel_scope.cancel()


async def test_a_channel_is_opened_claimed_and_closed_by_the_nodes_own_operations(autojump_clock: object) -> None:
    async with town() as place:
        terms = place.terms()
        assert (await place.payer.client.channel_state(terms)).status == "absent"
        opened = await open_channel(place.payer.account, terms, TON)
        assert opened.state.status == "open"
        assert opened.state.deposit_nanoton == TON
        assert 2 * BLOCK_S <= trio.current_time() <= 5 * BLOCK_S, "a message a block, there and back"

        voucher = Voucher(terms.address(), NETWORK_ID, 1, TON // 4)
        signed = voucher.sign(place.payer.channel_seed)
        claimed = await claim(place.payee.account, terms, voucher, signed)
        assert claimed.state.paid_nanoton == TON // 4
        with pytest.raises(ChannelRefused) as refused:
            await claim(place.payee.account, terms, voucher, signed)
        assert refused.value.exit_code == 105

        agreement = CloseAgreement(terms.address(), NETWORK_ID, TON // 2, place.chain.utime_s + 300)
        both = (agreement.sign(place.payer.channel_seed), agreement.sign(place.payee.channel_seed))
        closed = await cooperative_close(place.payer.account, terms, agreement, *both)
        assert closed.state.status == "closed"
        got = await place.payee.account.balance_nanoton()
        assert 5.4 * TON < got < 5.5 * TON
        assert 0 < place.chain.fees[place.payee.account.address] < TON // 50


async def test_a_deposit_comes_back_after_the_challenge_period_and_not_before(autojump_clock: object) -> None:
    async with town() as place:
        terms = place.terms(lasts_s=60)
        await open_channel(place.payer.account, terms, TON)
        await start_refund(place.payer.account, terms)
        with pytest.raises(ChannelRefused):
            await finish_refund(place.payer.account, terms)
        await trio.sleep(700)
        assert (await finish_refund(place.payer.account, terms)).state.status == "closed"
        assert await place.payer.account.balance_nanoton() > 4.9 * TON


async def test_a_wallet_that_is_short_sends_nothing_and_says_how_much_is_missing(autojump_clock: object) -> None:
    async with town() as place:
        with pytest.raises(InsufficientFunds, match="send it"):
            await open_channel(place.payer.account, place.terms(), 6 * TON)
        assert await place.payer.account.balance_nanoton() == 5 * TON


async def test_without_liteservers_questions_fail_after_the_real_clients_patience(autojump_clock: object) -> None:
    async with town() as place:
        place.ways[0].down = True
        began = trio.current_time()
        with pytest.raises(ChainUnavailable):
            await place.payer.client.channel_state(place.terms())
        assert trio.current_time() - began == REQUEST_TIMEOUT_S
        assert (await place.payee.client.channel_state(place.terms())).status == "absent"
