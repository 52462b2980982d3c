"""The TUN relay: reads every machine's packets, lets the switch decide what becomes of them, and writes them when due.

One task reads each device and one delivers, in the swarm's own process: nothing has to be told to another one, and the
devices are gone with it, however it ends.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import trio

from simulations.netns.limits import BATCH_PACKETS, MTU
from simulations.netns.switch import Switch


class Relay:
    """Carries packets between TUN devices until cancelled. ``devices`` are descriptors by the machine's name."""

    def __init__(self, switch: Switch, devices: Mapping[str, int]) -> None:
        self.switch = switch
        self.write_failed = 0
        """Packets that a device did not take: its queue was full, or it was down."""
        self._devices = dict(devices)
        self._earlier = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry, for ever. The devices stay open."""
        async with trio.open_nursery() as nursery:
            for name, descriptor in self._devices.items():
                nursery.start_soon(self._read, name, descriptor)
            nursery.start_soon(self._deliver)
            task_status.started()

    async def _read(self, name: str, descriptor: int) -> None:
        switch = self.switch
        while True:
            await trio.lowlevel.wait_readable(descriptor)
            now_s, before_s = trio.current_time(), switch.next_s
            try:
                for _ in range(BATCH_PACKETS):
                    switch.send(now_s, name, os.read(descriptor, MTU))
            except BlockingIOError:
                pass
            self._write_due(now_s)
            next_s = switch.next_s
            if next_s is not None and (before_s is None or next_s < before_s):
                self._earlier.set()

    async def _deliver(self) -> None:
        while True:
            self._earlier = earlier = trio.Event()
            next_s = self.switch.next_s
            if next_s is None:
                await earlier.wait()
                continue
            with trio.move_on_at(next_s):
                await earlier.wait()
            self._write_due(trio.current_time())

    def _write_due(self, now_s: float) -> None:
        for receiver, packet in self.switch.due(now_s):
            try:
                os.write(self._devices[receiver], packet)
            except OSError:
                self.write_failed += 1
