"""The chain itself goes away in the middle of a settlement: killed, and started again from what it kept."""

from __future__ import annotations

import itertools
import json
import signal
import time
from functools import partial

import pytest
import trio

from overlay.settlement import ChannelTerms, SettlementError
from overlay.settlement.cells import OP_PAYOUT
from overlay.settlement.devnet import ask_faucet, ask_totals
from simulations.processes import run_process

TON = 1_000_000_000


class DyingNet:
    """A devnet process that keeps its chain, to be killed and started again at the same address."""

    def __init__(self, home, nursery):
        self.home, self.nursery = home, nursery
        self.seeds = (number.to_bytes(32, "big") for number in itertools.count(1000))
        self.clock = time.time
        self.devnet = self
        self.config = None
        self._process = None

    async def start(self):
        arguments = ["devnet", "run", "--dir", str(self.home / "net"), "--data-dir", str(self.home / "chain")]

        async def hold(task_status):
            async with run_process("devnet", arguments, home=self.home) as process:
                ready = await process.wait_for("ready", 60)
                self.config = json.loads(await trio.Path(ready["config"]).read_text())
                task_status.started(process)
                await process.ended()

        self._process = await self.nursery.start(hold)

    async def kill(self):
        self._process.process.send_signal(signal.SIGKILL)
        await self._process.ended()

    def global_config(self):
        return self.config

    async def fund(self, address, nanoton):
        await ask_faucet(self.config, address, nanoton)

    async def call(self, function, *args):
        return await function(*args)


@pytest.fixture
async def net(tmp_path):
    async with trio.open_nursery() as nursery:
        made = DyingNet(tmp_path, nursery)
        await made.start()
        yield made
        nursery.cancel_scope.cancel()


async def try_to(operation):
    """Whatever comes of it: the chain may be gone."""
    try:
        await operation()
    except SettlementError:
        return


@pytest.mark.parametrize(
    "wait_s", [0.05, *(pytest.param(wait_s, marks=pytest.mark.slow) for wait_s in (0.0, 0.02, 0.1, 0.2, 0.4))]
)
async def test_a_chain_that_is_killed_while_a_claim_is_on_its_way_pays_it_once(two, net, wait_s):
    record = await two.open()
    await two.promise(record.channel, 10_000_000)
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(try_to, partial(two.payee.claim, record.channel, close=False))
            await trio.sleep(wait_s)
            await net.kill()
            await net.start()
        while (await two.payee.claims.held(record.channel)).record.paid_nanoton == 0:
            await try_to(two.payee.look)
            await try_to(partial(two.payee.claim, record.channel, close=False))
    state = await two.payee.chain.client.channel_state(ChannelTerms.from_bytes(record.terms))
    assert (state.status, state.paid_nanoton) == ("open", 10_000_000)
    account = two.payee.chain.account
    messages = [entry.in_message for entry in await account.client.transactions(account.address)]
    payouts = [m for m in messages if m is not None and m.source == record.channel and m.operation()[0] == OP_PAYOUT]
    assert len(payouts) == 1, "it took effect once"
    assert (await ask_totals(net.config))["conserved"]
    assert (await two.payer.close_together(record.channel)).paid_nanoton == 10_000_000
