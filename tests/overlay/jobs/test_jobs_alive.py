"""A provider that says nothing is asked whether it is there; one that does not answer is gone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import trio

from compute.tasks import TextDelta
from overlay.errors import ProviderGone
from overlay.jobs.limits import ALIVE_FIRST_S, ALIVE_S, QUIET_S, SILENCE_S


def switch_off(far: Any) -> None:
    """The machine loses power: nothing that it would say gets out."""
    for stream in far.streams:
        stream.stuck = True


@pytest.fixture
def gate(world: Any) -> Iterator[Any]:
    """What lets the engine make one batch more."""
    send, world.engine.gate = trio.open_memory_channel[int](1000)
    yield send
    send.close()


async def begun(world: Any, kit: Any, near: Any, client: Any) -> Any:
    agreement = world.agreement()
    await world.server.add_agreement(agreement)
    channel = await client.attach(await world.payer())
    return channel, client.run(agreement, channel, kit.chat("hello", 40))


async def test_a_machine_that_is_gone_before_the_first_events_is_noticed_in_seconds(
    world: Any, kit: Any, jumping_clock: Any
) -> None:
    world.engine.delay_s = 1000.0
    near, far = world.connect()
    async with world.job_client(near) as client:
        _, job = await begun(world, kit, near, client)
        async with job as run:
            await trio.sleep(1)  # it is accepted
            switch_off(far)
            began_s = trio.current_time()
            with pytest.raises(ProviderGone, match="machine has not answered"):
                await anext(run)
            # It was accepted before: what it said first is read at once, and silence begins then.
            assert trio.current_time() - began_s == pytest.approx(QUIET_S + ALIVE_FIRST_S, abs=0.5)


async def test_a_machine_that_is_gone_in_the_middle_is_given_a_little_longer(
    world: Any, kit: Any, jumping_clock: Any, gate: Any
) -> None:
    near, far = world.connect()
    async with world.job_client(near) as client:
        _, job = await begun(world, kit, near, client)
        with pytest.raises(ProviderGone, match="machine has not answered"):
            async with job as run:
                for _ in range(5):
                    gate.send_nowait(1)
                texts = 0
                async for events in run:
                    texts += sum(isinstance(event, TextDelta) for event in events)
                    if texts == 5:
                        switch_off(far)
                        began_s = trio.current_time()
        assert trio.current_time() - began_s == pytest.approx(QUIET_S + ALIVE_S, abs=0.5)


async def test_a_slow_engine_of_a_machine_that_is_there_is_waited_for(
    world: Any, kit: Any, jumping_clock: Any, gate: Any
) -> None:
    near, _ = world.connect()
    async with world.job_client(near) as client:
        channel, job = await begun(world, kit, near, client)

        async def engine() -> None:
            for _ in range(3):
                await trio.sleep(SILENCE_S / 2)
                for _ in range(20):
                    gate.send_nowait(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine)
            texts = 0
            async with job as run:
                async for events in run:
                    texts += sum(isinstance(event, TextDelta) for event in events)
        assert texts == 40
        await channel.settled()
        assert channel.payer.account.unpaid_nanoton == 0
        assert channel.payer.account.prepaid_nanoton == 0


async def test_an_engine_that_stands_still_on_a_machine_that_is_there_is_given_up_in_the_end(
    world: Any, kit: Any, jumping_clock: Any, gate: Any
) -> None:
    near, _ = world.connect()
    async with world.job_client(near) as client:
        _, job = await begun(world, kit, near, client)
        gate.send_nowait(1)
        with pytest.raises(ProviderGone, match="said nothing of the job"):
            async with job as run:
                async for _ in run:
                    began_s = trio.current_time()
        assert trio.current_time() - began_s == pytest.approx(SILENCE_S, abs=1)


async def test_who_asks_twice_before_an_answer_asks_once(world: Any, kit: Any) -> None:
    near, _ = world.connect()
    async with world.job_client(near) as client:
        channel, _ = await begun(world, kit, near, client)
        payer = channel.payer
        await channel.settled()
        payer.ask()
        assert payer.payment() is not None
        payer.ask()
        assert payer.payment() is None
        payer.acknowledged()
        assert payer.quiet
