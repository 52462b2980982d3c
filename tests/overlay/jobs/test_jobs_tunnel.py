"""The same over a real Noise tunnel on loopback, with the real scheduler and a small deterministic engine."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager

import pytest
import trio

from compute.engines.base import Capability
from compute.scheduler import Scheduler
from compute.tasks import Finished, Started, Task, TextDelta, TranscribeRequest
from compute.usage import Unit, Usage
from overlay.errors import ProviderGone
from overlay.jobs import AgreementBook, JobServer, open_job_client
from overlay.settlement.ledger import Role, open_ledger
from transport.identity import Identity
from transport.tunnel import StaticKey, TunnelEndpoint, dial, open_tunnel_listener


class WordEngine:
    """One token a step for each job: the n-th word is ``wn``; a transcription says how many bytes came."""

    name = "words"

    def __init__(self) -> None:
        self.jobs: dict[int, tuple[object, int]] = {}

    def load(self) -> None:
        pass

    def capabilities(self):
        return [Capability(Task.CHAT, "echo", 32), Capability(Task.TRANSCRIBE, "ear", 32)]

    def submit(self, job, request) -> None:
        self.jobs[job] = (request, -1)

    def step(self):
        events = []
        for job, (request, at) in list(self.jobs.items()):
            if isinstance(request, TranscribeRequest):
                units = Usage({Unit.AUDIO_MS: request.duration_ms})
                text = f"{len(request.audio)} bytes ending in {request.audio[-1]}"
                events += [(job, Started(units)), (job, TextDelta(text)), (job, Finished("stop"))]
                del self.jobs[job]
            elif at < 0:
                events.append((job, Started(Usage.of(Unit.PROMPT, 3))))
                self.jobs[job] = (request, 0)
            elif at < request.sampling.max_tokens:
                events.append((job, TextDelta(f"w{at} ", Usage.of(Unit.COMPLETION, 1))))
                self.jobs[job] = (request, at + 1)
            else:
                events.append((job, Finished("length")))
                del self.jobs[job]
        return events

    def cancel(self, job) -> None:
        self.jobs.pop(job, None)

    def close(self) -> None:
        self.jobs.clear()


def endpoint(identity: Identity) -> TunnelEndpoint:
    return TunnelEndpoint(identity, StaticKey.from_seed(identity.seed))


@asynccontextmanager
async def two_nodes(tmp_path, kit):
    client, provider = Identity(b"c" * 32), Identity(b"p" * 32)
    async with (
        open_ledger(tmp_path / "c.db") as ours,
        open_ledger(tmp_path / "p.db") as theirs,
        Scheduler.run([WordEngine()]) as scheduler,
    ):
        payer, payee = kit.channel_record(Role.PAYER, provider.peer_id), kit.channel_record(Role.PAYEE, client.peer_id)
        await ours.run(lambda store: store.add_channel(payer))
        await theirs.run(lambda store: store.add_channel(payee))
        server = JobServer(
            identity=provider,
            ledger=theirs,
            submit=scheduler.submit,
            verifier=lambda record: kit.verify_voucher,
            now_ms=lambda: kit.NOW_MS,
            random_bytes=random.Random(1).randbytes,
        )
        async with open_tunnel_listener(endpoint(provider), "127.0.0.1", 0, server.serve) as listener:
            world = kit.World(client, provider, ours, theirs, None, server, AgreementBook(ours), None)
            yield world, listener.addrs[0]


async def test_jobs_of_all_sizes_go_through_one_real_tunnel_and_add_up(tmp_path, kit):
    async with two_nodes(tmp_path, kit) as (world, addr):
        agreement = world.agreement(credit_window_nanoton=2000)
        ear = world.agreement(task=Task.TRANSCRIBE, model="ear", quote=b"e" * 32)
        key = StaticKey.from_seed(world.provider.seed).public
        answers: dict[int, str] = {}
        async with (
            await dial(endpoint(world.client), addr, world.provider.peer_id, static_key=key) as tunnel,
            world.job_client(tunnel) as client,
        ):
            channel = await client.attach(await world.payer())

            async def one(number: int) -> None:
                async with client.run(agreement, channel, kit.chat("hello", 20 + number)) as run:
                    async for events in run:
                        answers[number] = answers.get(number, "") + "".join(
                            event.text for event in events if isinstance(event, TextDelta)
                        )
                assert run.usage.get(Unit.COMPLETION) == 20 + number

            async def transcribe() -> None:
                audio = random.Random(3).randbytes(2_000_000) + b"\x07"
                async with client.run(ear, channel, TranscribeRequest("ear", audio, 5000)) as run:
                    async for events in run:
                        answers[-1] = answers.get(-1, "") + "".join(getattr(event, "text", "") for event in events)

            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(transcribe)
                    for number in range(20):
                        nursery.start_soon(one, number)
                await channel.settled()
        assert all(answers[n] == "".join(f"w{i} " for i in range(20 + n)) for n in range(20))
        assert answers[-1] == "2000001 bytes ending in 7"
        expected = sum(3 + 5 * (20 + n) for n in range(20)) + 50
        for ledger in (world.client_ledger, world.provider_ledger):
            await ledger.flush()
            head = await ledger.run(lambda store: store.head(kit.CHANNEL))
            voucher = await ledger.run(lambda store: store.voucher(kit.CHANNEL))
            assert (head.index, head.cumulative_nanoton, voucher.amount_nanoton) == (21, expected, expected)
            assert await ledger.run(lambda store: store.signed_index(kit.CHANNEL)) == 21


async def test_a_provider_that_dies_in_the_middle_is_paid_for_what_came(tmp_path, kit):
    async with two_nodes(tmp_path, kit) as (world, addr):
        agreement = world.agreement(credit_window_nanoton=200)
        key = StaticKey.from_seed(world.provider.seed).public
        payer = await world.payer()
        async with await dial(endpoint(world.client), addr, world.provider.peer_id, static_key=key) as tunnel:
            async with world.job_client(tunnel) as client:
                channel = await client.attach(payer)
                with pytest.raises(ProviderGone), trio.fail_after(30):
                    async with client.run(agreement, channel, kit.chat("hello", 1000)) as run:
                        async for _ in run:
                            if run.usage.get(Unit.COMPLETION) > 100:
                                await tunnel.aclose("as if the provider had died")
        came = 3 + 5 * run.usage.get(Unit.COMPLETION)
        assert payer.account.owed_nanoton == came
        assert payer.account.promised_nanoton <= came
        async with await dial(endpoint(world.client), addr, world.provider.peer_id, static_key=key) as tunnel:
            async with open_job_client(
                tunnel,
                identity=world.client,
                ledger=world.client_ledger,
                book=world.book,
                now_s=lambda: 0,
                random_bytes=random.Random(2).randbytes,
            ) as client:
                channel = await client.attach(payer)
                with trio.fail_after(10):
                    await channel.settled()
        head = await world.provider_ledger.run(lambda store: store.head(kit.CHANNEL))
        voucher = await world.provider_ledger.run(lambda store: store.voucher(kit.CHANNEL))
        assert head.cumulative_nanoton == voucher.amount_nanoton == came
