"""The network of a swarm: a namespace for every machine, and what carries packets between them.

veth   pairs on one bridge: nothing is asked of the network, or only a rate, which the kernel's tbf does
netem  the same, with the kernel's netem for delay, jitter and loss
relay  a TUN device in every namespace and the relay in user space: without netem, and always with NAT
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import trio

from overlay.errors import CocoonError, ConfigError
from simulations.netns import enter, kernel, owner
from simulations.netns.addresses import DEVNET, HOST, AddressPlan, free_network, node_names, plan_addresses
from simulations.netns.limits import SWARM_PREFIX
from simulations.netns.nat import Nat, NatKind
from simulations.netns.owner import Owner
from simulations.netns.relay import Relay
from simulations.netns.shape import Shape
from simulations.netns.switch import Switch

LISTEN_PORT, TUNNEL_PORT = 4001, 4002
"""Every machine has its own address, so all can have the same ports."""

_HOST_LINK = "up"
"""The end of the name of the host's own interface: the bridge, or its TUN device."""


class Carrier(StrEnum):
    """What carries the packets."""

    VETH = "veth"
    NETEM = "netem"
    RELAY = "relay"

    @property
    def text(self) -> str:
        """For people."""
        return {"veth": "veth pairs on a bridge", "netem": "veth pairs on a bridge, with netem"}.get(
            self, "TUN devices and a relay in user space"
        )


@dataclass(frozen=True)
class NetworkOptions:
    """What was asked for. The last ``behind_nat`` nodes are behind a NAT; ``carrier`` ``None`` takes what will do."""

    shape: Shape = field(default_factory=Shape)
    behind_nat: int = 0
    nat_kind: NatKind = NatKind.SYMMETRIC
    carrier: Carrier | None = None
    seed: int = 0

    def check(self, number: int) -> None:
        """Raises :class:`~overlay.errors.ConfigError` for what cannot be, before anything is made."""
        if not 0 <= self.behind_nat < number:
            raise ConfigError(
                f"--nat {self.behind_nat} of {number} nodes: one at least must be outside, to relay for the others"
            )
        wanted = self.carrier
        if self.behind_nat and wanted not in (None, Carrier.RELAY):
            raise ConfigError("--nat is done by the relay; leave --carrier out")
        if wanted is Carrier.VETH and not self.shape.only_rate:
            raise ConfigError("plain veth pairs neither delay nor lose; leave --carrier out, or take netem or relay")

    def natted(self, number: int) -> tuple[str, ...]:
        """The names of those behind a NAT."""
        return node_names(number)[number - self.behind_nat :]


class SwarmNetwork:
    """The running network of a swarm. Use :func:`open_network`."""

    def __init__(self, plan: AddressPlan, carrier: Carrier, options: NetworkOptions, of: Owner) -> None:
        self.plan = plan
        self.carrier = carrier
        self.options = options
        self.relay: Relay | None = None
        self._owner = of
        self._nodes = [machine.name for machine in plan.nodes]
        self._cut: tuple[str, ...] = ()

    @property
    def cut_off(self) -> tuple[str, ...]:
        """The nodes on one side of the partition; empty while there is none."""
        return self._cut

    def command(self, machine: str, command: Sequence[str]) -> list[str]:
        """``command``, run in the namespace of ``machine``."""
        path = str(kernel.namespace_path(self._owner.namespace(machine)))
        # -I -S: nothing but the standard library is needed to change the namespace, and it starts in 10 ms.
        return [sys.executable, "-I", "-S", enter.__file__, path, *command]

    def devnet_arguments(self) -> list[str]:
        """For `cocoon devnet run`."""
        return ["--host", str(self.plan.devnet.inside)]

    def node_arguments(self, machine: str, relay_addr: str | None) -> list[str]:
        """For `cocoon node run`. ``relay_addr`` is where the first node relays, for those behind a NAT."""
        inside = self.plan.machine(machine).inside
        arguments = [
            "--listen", f"/ip4/{inside}/tcp/{LISTEN_PORT}",
            f"--set=node.tunnel_host={inside}", f"--set=node.tunnel_port={TUNNEL_PORT}",
        ]  # fmt: skip
        if self.options.behind_nat and machine == self._nodes[0]:
            arguments.append("--set=relay.serve=true")
        if self.is_natted(machine) and relay_addr is not None:
            # Whoever is behind a NAT knows somebody outside, and is known to others through him only.
            arguments += ["--bootstrap", relay_addr, f'--set=relay.use=["{relay_addr}"]']
        return arguments

    def is_natted(self, machine: str) -> bool:
        """Whether nobody can dial it."""
        return machine in self.options.natted(len(self._nodes))

    async def partition(self, side: Sequence[str]) -> None:
        """Let the nodes of ``side`` reach each other and the devnet only. Replaces an earlier partition."""
        rest = [name for name in (*self._nodes, HOST) if name not in side]
        if self.relay is not None:
            self.relay.switch.cut([side, rest])
        else:
            await trio.to_thread.run_sync(self._rejoin)
            await trio.to_thread.run_sync(self._separate, tuple(side), rest)
        self._cut = tuple(side)

    async def heal(self) -> None:
        """Let all reach all again."""
        if self.relay is not None:
            self.relay.switch.cut([])
        else:
            await trio.to_thread.run_sync(self._rejoin)
        self._cut = ()

    def _separate(self, side: Sequence[str], rest: Sequence[str]) -> None:
        for names, others in ((side, rest), (rest, side)):
            addresses = [self.plan.machine(other).address for other in others]
            for name in names:
                kernel.unreach(*self._place(name), addresses)

    def _rejoin(self) -> None:
        addresses = [machine.address for machine in self.plan.machines]
        for name in (*self._nodes, HOST):
            kernel.reach_again(*self._place(name), addresses)

    def _place(self, name: str) -> tuple[str | None, str]:
        """The namespace and the interface of a machine, where the kernel carries."""
        if name == HOST:
            return None, self._owner.link(_HOST_LINK)
        return self._owner.namespace(name), kernel.INSIDE

    def counts(self) -> dict[str, int]:
        """What the relay did with packets; empty where the kernel carries them."""
        if self.relay is None:
            return {}
        return {**vars(self.relay.switch.counts), "write_failed": self.relay.write_failed}


@asynccontextmanager
async def open_network(number: int, options: NetworkOptions, home: Path) -> AsyncIterator[SwarmNetwork]:
    """Make the network of a swarm of ``number`` nodes, and remove all of it at the end, on cancellation too.

    Raises :class:`~overlay.errors.ConfigError` without root, or when the kernel lacks what is needed; nothing is left.
    """
    options.check(number)
    kernel.may_make_networks()
    with ExitStack() as stack:
        network, devices = await trio.to_thread.run_sync(_build, stack, number, options, home)
        # Whatever happens now, taking it down must not be cut short.
        stack.callback(_close_all, list(devices.values()))
        if not devices:
            yield network
            return
        async with trio.open_nursery() as nursery:
            nats = {
                m.name: Nat(options.nat_kind, int(m.address)) for m in network.plan.nodes if network.is_natted(m.name)
            }
            rng = random.Random(options.seed)  # noqa: S311 — losses and jitter, no secret
            network.relay = Relay(Switch(network.plan, options.shape, nats, rng), devices)
            await nursery.start(_run_relay, network.relay)
            yield network
            nursery.cancel_scope.cancel()


async def _run_relay(relay: Relay, *, task_status: trio.TaskStatus[None]) -> None:
    try:
        await relay.run(task_status=task_status)
    except* OSError as group:
        raise CocoonError(
            "the swarm's network is gone: somebody else has removed one of its interfaces or namespaces"
        ) from group


def _build(stack: ExitStack, number: int, options: NetworkOptions, home: Path) -> tuple[SwarmNetwork, dict[str, int]]:
    """Everything in the kernel; what has to be undone is on ``stack``. The second part are TUN descriptors, if any."""
    of = stack.enter_context(owner.owned(home))
    try:
        with owner.setting_up():
            # The devnet's namespace serves to try what the kernel can.
            kernel.make_namespace(of.namespace(DEVNET))
            carrier = _carrier(options, of.namespace(DEVNET))
            translated = options.natted(number) if options.nat_kind.translates else ()
            plan = plan_addresses(free_network(kernel.routes()), number, translated)
            network = SwarmNetwork(plan, carrier, options, of)
            if carrier is Carrier.RELAY:
                return network, _link_tuns(of, plan)
            _link_veths(of, plan, options.shape)
            return network, {}
    except BaseException:
        stack.close()
        raise


def _carrier(options: NetworkOptions, namespace: str) -> Carrier:
    wanted = options.carrier
    if wanted is None:
        if options.behind_nat:
            wanted = Carrier.RELAY
        elif options.shape.only_rate:
            wanted = Carrier.VETH
        else:
            wanted = Carrier.NETEM if kernel.has_netem(namespace) else Carrier.RELAY
    elif wanted is Carrier.NETEM and not kernel.has_netem(namespace):
        raise ConfigError("this kernel has no netem; leave --carrier out for the relay in user space")
    if wanted is Carrier.RELAY and not kernel.has_tun():
        raise ConfigError(
            f"there is no {kernel.DEVICE}, through which the relay would carry packets (without netem in the kernel, "
            "or with NAT); try `modprobe tun`, or leave --delay, --jitter, --loss and --nat out"
        )
    return wanted


def _link_tuns(of: Owner, plan: AddressPlan) -> dict[str, int]:
    devices: dict[str, int] = {}
    try:
        for index, machine in enumerate(plan.machines):
            link = of.link(_HOST_LINK if machine.name == HOST else str(index))
            with kernel.explained("TUN devices"):
                devices[machine.name] = kernel.open_tun(link)
            if machine.name == HOST:
                kernel.bring_up_tun(link, machine.inside, SWARM_PREFIX)
                continue
            namespace = of.namespace(machine.name)
            if machine.name != DEVNET:
                kernel.make_namespace(namespace)
            kernel.move_tun(link, namespace, machine.inside)
    except BaseException:
        _close_all(list(devices.values()))
        raise
    return devices


def _link_veths(of: Owner, plan: AddressPlan, shape: Shape) -> None:
    bridge = of.link(_HOST_LINK)
    kernel.add_bridge(bridge, plan.host.address, SWARM_PREFIX)
    down = Shape(rate_bit_s=shape.rate_bit_s)
    kernel.shape_link(None, bridge, shape)
    for index, machine in enumerate(plan.machines):
        if machine.name == HOST:
            continue
        namespace, outside = of.namespace(machine.name), of.link(str(index))
        if machine.name != DEVNET:
            kernel.make_namespace(namespace)
        kernel.add_veth(namespace, outside, bridge, machine.address, SWARM_PREFIX)
        # What a machine sends waits, is lost and is slowed; what it gets is slowed only, or it would wait twice.
        kernel.shape_link(namespace, kernel.INSIDE, shape)
        kernel.shape_link(None, outside, down)


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


__all__ = ["Carrier", "NetworkOptions", "SwarmNetwork", "open_network"]
