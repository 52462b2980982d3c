"""Processes are watched through their events, always ended, and their end is told with its reason."""

from __future__ import annotations

import signal

import pytest
import trio

from simulations.processes import ProcessFailed, run_process


async def test_events_of_a_process_are_seen_past_and_future_and_it_ends_with_the_block(tmp_path):
    seen = []
    arguments = ["devnet", "run", "--dir", str(tmp_path / "d")]
    with trio.fail_after(60):
        async with run_process("devnet", arguments, home=tmp_path, on_event=lambda *told: seen.append(told)) as devnet:
            ready = await devnet.wait_for("ready")
            assert await devnet.wait_for("ready", port=ready["port"]) == ready
            with pytest.raises(ProcessFailed, match="devnet did not say 'ready' within"):
                await devnet.wait_for("ready", 0.05, port=-1)
            assert devnet.process.poll() is None
        assert devnet.process.returncode == 0
    assert ("devnet", ready) in seen


async def test_a_process_that_ends_before_its_word_is_told_with_its_own_error(tmp_path):
    with trio.fail_after(60):
        async with run_process("node", ["node", "run", "--preset", "nonsense"], home=tmp_path) as node:
            with pytest.raises(ProcessFailed, match=r"(?s)node ended \(exit 2\) before 'ready'.*no preset 'nonsense'"):
                await node.wait_for("ready")
            assert await node.ended() == 2


async def test_a_killed_process_is_noticed(tmp_path):
    with trio.fail_after(60):
        async with run_process("devnet", ["devnet", "run", "--dir", str(tmp_path / "d")], home=tmp_path) as devnet:
            await devnet.wait_for("ready")
            devnet.process.send_signal(signal.SIGKILL)
            assert await devnet.ended() == -signal.SIGKILL
            with pytest.raises(ProcessFailed, match="exit -9"):
                await devnet.wait_for("nothing of the kind")
