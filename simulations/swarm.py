"""`cocoon swarm up`: N real nodes on this machine, kept up until stopped, and what can be done to them meanwhile.

The swarm is the one owner of its processes and its network: `cocoon swarm chaos` asks it through its control socket, so
that only what was started here is ever signalled.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import trio

from overlay.cli.output import Output
from overlay.control import Command, answers, serve_control
from overlay.errors import CocoonError, ConfigError
from overlay.events import EventLog
from simulations.netns.addresses import DEVNET, node_names
from simulations.netns.chaos import names_of
from simulations.processes import CocoonProcess, ProcessFailed, cocoon_command, run_command

if TYPE_CHECKING:
    from simulations.netns.network import NetworkOptions, SwarmNetwork

START_TIMEOUT_S = 60.0
RESTART_DELAYS_S = (0.5, 1.0, 2.0, 5.0, 10.0)
"""A node that dies is restarted after these; one that has run for a minute begins again at the first."""

STABLE_S = 60.0

ANSWER_S = 0.1
"""Until a swarm that was told to stop begins to, so that the answer goes out first."""


async def run_swarm(number: int, directory: Path | None, output: Output, network: NetworkOptions | None = None) -> None:
    """Start a devnet and ``number`` providers, restart those that die, and stop all on SIGINT or SIGTERM.

    With ``network`` each lives in a network namespace of its own; raises :class:`~overlay.errors.ConfigError` when this
    machine cannot do that, before anything starts.
    """
    log = EventLog(output.event, time.time)
    with _place(directory) as home, trio.open_signal_receiver(*_ending_signals()) as signals:
        async with trio.open_nursery() as nursery:

            async def stop_on_signal() -> None:
                async for _ in signals:
                    log.info("stopping", "stopping all nodes")
                    nursery.cancel_scope.cancel()
                    return

            nursery.start_soon(stop_on_signal)
            async with _open_network(number, network, home, log) as ground:
                await Swarm(home, node_names(number), ground, log, nursery.cancel_scope).run()
    log.info("stopped", "all nodes are stopped")


@asynccontextmanager
async def _open_network(
    number: int, options: NetworkOptions | None, home: Path, log: EventLog
) -> AsyncIterator[SwarmNetwork | None]:
    if options is None:
        yield None
        return
    # pyroute2 is slow to import, and only this needs it.
    from simulations.netns.kernel import may_make_networks
    from simulations.netns.network import open_network
    from simulations.netns.owner import remove_leftovers

    may_make_networks()
    for left in await trio.to_thread.run_sync(remove_leftovers):
        log.info("leftovers", left.text, owner=left.owner.pid, namespaces=left.namespaces, processes=left.processes)
    async with open_network(number, options, home) as network:
        hidden = options.natted(number)
        carried = f"carried by {network.carrier.text}"
        behind = f"; {', '.join(hidden)} behind a NAT ({options.nat_kind})" if hidden else ""
        log.info(
            "network",
            f"{number} namespaces in {network.plan.network}, {options.shape}, {carried}{behind}",
            carrier=network.carrier.value,
            network=str(network.plan.network),
            behind_nat=list(hidden),
        )
        try:
            yield network
        finally:
            if counts := network.counts():
                log.info("packets", _packets_text(counts), **counts)


@dataclass
class _Node:
    """A node of the swarm: its process while it runs."""

    name: str
    process: CocoonProcess | None = None
    peer_id: str = ""
    frozen: bool = False

    @property
    def state(self) -> str:
        if self.process is None or self.process.process.poll() is not None:
            return "restarting"
        return "frozen" if self.frozen else "up" if self.peer_id else "starting"


class Swarm:
    """A running swarm. ``network`` is ``None`` where all nodes share this machine's own network."""

    def __init__(
        self, home: Path, names: Sequence[str], network: SwarmNetwork | None, log: EventLog, scope: trio.CancelScope
    ) -> None:
        self._home = home
        self._nodes = {name: _Node(name) for name in names}
        self._network = network
        self._log = log
        self._scope = scope
        self._relay_addr: str | None = None
        """Where the first node relays for those behind a NAT."""
        self._first_up = trio.Event()

    async def run(self) -> None:
        """Until cancelled. Raises :class:`ProcessFailed` when the devnet ends."""
        home, log = self._home, self._log
        async with self._process(DEVNET, ["devnet", "run", "--dir", str(home / DEVNET), *self._devnet()]) as devnet:
            config = (await devnet.wait_for("ready", START_TIMEOUT_S))["config"]
            log.info("devnet", f"TON devnet up; its configuration is {config}", config=config)
            async with trio.open_nursery() as nursery:
                try:
                    await nursery.start(serve_control, home, self.commands())
                    for node in self._nodes.values():
                        nursery.start_soon(self._keep_up, node, config)
                        # One after the other: each newcomer finds those before it through the home they share.
                        await trio.sleep(0.3)
                    # What root made only root can use.
                    sudo = "sudo " if os.environ.get("SUDO_UID") else ""
                    log.info(
                        "swarm", f'talk to them with: {sudo}COCOON_HOME={home} cocoon chat "Hello"', home=str(home)
                    )
                    await devnet.ended()
                finally:
                    self._thaw_all()  # a frozen process does not hear that it shall end
                raise ProcessFailed("the devnet ended, and with it the swarm's money")

    def commands(self) -> Mapping[str, Command]:
        """What the control socket answers."""
        signalled: dict[str, Callable[[_Node], None]] = {"kill": self._kill, "freeze": self._freeze, "thaw": self._thaw}
        return {
            "status": self._status,
            "stop": self._stop,
            "partition": self._partition,
            "heal": self._heal,
            **{name: partial(self._each, act) for name, act in signalled.items()},
        }

    # ---- processes ----

    def _process(self, machine: str, arguments: Sequence[str]) -> AbstractAsyncContextManager[CocoonProcess]:
        command = cocoon_command(*arguments, "--json")
        home = self._home
        if self._network is not None:
            command = self._network.command(machine, command)
            if self._network.is_natted(machine):
                # Through a common home others would learn its inside address, which leads nowhere.
                home = home / machine
        return run_command(machine, command, home=home)

    def _devnet(self) -> list[str]:
        return [] if self._network is None else self._network.devnet_arguments()

    async def _keep_up(self, node: _Node, config: str) -> None:
        network, name = self._network, node.name
        if network is not None and network.is_natted(name):
            await self._first_up.wait()
        attempt = 0
        while True:
            started = trio.current_time()
            arguments = ["node", "run", "--preset", "local", "--data-dir", str(self._home / name), "--ton", config]
            if network is not None:
                arguments += network.node_arguments(name, self._relay_addr)
            async with self._process(name, arguments) as process:
                node.process, node.frozen, node.peer_id = process, False, ""
                await self._watch(node, process)
            attempt = 0 if trio.current_time() - started > STABLE_S else attempt + 1
            delay = RESTART_DELAYS_S[min(attempt, len(RESTART_DELAYS_S) - 1)]
            self._log.warning(
                "restarting",
                f"{name} ended (exit {process.process.returncode}); starting it again in {delay:g} s",
                node=name,
            )
            await trio.sleep(delay)

    async def _watch(self, node: _Node, process: CocoonProcess) -> None:
        try:
            ready: dict[str, Any] = await process.wait_for("ready", START_TIMEOUT_S)
        except ProcessFailed as error:
            self._log.warning("failed", str(error), node=node.name)
            return
        node.peer_id = ready["peer_id"]
        if not self._first_up.is_set() and node is next(iter(self._nodes.values())):
            self._relay_addr = next((_with_peer(addr, node.peer_id) for addr in ready.get("addrs", ())), None)
            self._first_up.set()
        self._log.info(
            "node", f"{node.name} up: {ready['peer_id']}", node=node.name, pid=process.process.pid, **_plain(ready)
        )
        await process.ended()

    # ---- what can be done to it ----

    async def _status(self, _: Mapping[str, Any]) -> dict[str, Any]:
        network = self._network
        rows = []
        for node in self._nodes.values():
            pid = node.process.process.pid if node.process is not None and node.state != "restarting" else None
            rows.append({"node": node.name, "state": node.state, "pid": pid, "peer_id": node.peer_id})
            if network is not None:
                machine = network.plan.machine(node.name)
                rows[-1] |= {"address": str(machine.address), "behind_nat": network.is_natted(node.name)}
        return {
            "pid": os.getpid(),
            "nodes": rows,
            "netns": network is not None,
            "cut_off": list(network.cut_off) if network is not None else [],
            "packets": network.counts() if network is not None else {},
        }

    async def _stop(self, _: Mapping[str, Any]) -> None:
        self._log.info("stopping", "stopping all nodes")
        self._scope.deadline = trio.current_time() + ANSWER_S

    async def _each(self, act: Callable[[_Node], None], request: Mapping[str, Any]) -> None:
        for name in self._named(request):
            act(self._nodes[name])

    async def _partition(self, request: Mapping[str, Any]) -> None:
        network, names = self._separable(), self._named(request)
        await network.partition(names)
        self._log.warning("chaos", f"{', '.join(names)}: cut off from all others", action="partition", nodes=names)

    async def _heal(self, _: Mapping[str, Any]) -> None:
        await self._separable().heal()
        self._log.warning("chaos", "the network is whole", action="heal", nodes=[])

    def _separable(self) -> SwarmNetwork:
        if self._network is None:
            raise ConfigError(
                "the nodes of this swarm share one network, which cannot be parted; start it with --netns"
            )
        return self._network

    def _named(self, request: Mapping[str, Any]) -> tuple[str, ...]:
        names = names_of(str(request.get("nodes", "")), tuple(self._nodes))
        if not names:
            raise ConfigError(f"name a node, or several with commas between; this swarm has {', '.join(self._nodes)}")
        return names

    def _kill(self, node: _Node) -> None:
        self._running(node).process.kill()
        self._log.warning("chaos", f"{node.name}: killed", action="kill", nodes=[node.name])

    def _freeze(self, node: _Node) -> None:
        _signal_family(self._running(node), signal.SIGSTOP)
        node.frozen = True
        self._log.warning("chaos", f"{node.name}: frozen", action="freeze", nodes=[node.name])

    def _thaw(self, node: _Node) -> None:
        if not node.frozen:
            return
        node.frozen = False
        if node.process is not None:
            _signal_family(node.process, signal.SIGCONT)
        self._log.warning("chaos", f"{node.name}: goes on", action="thaw", nodes=[node.name])

    def _thaw_all(self) -> None:
        for node in self._nodes.values():
            self._thaw(node)

    def _running(self, node: _Node) -> CocoonProcess:
        if node.process is None or node.state == "restarting":
            raise CocoonError(f"{node.name} does not run now; the swarm is about to start it")
        return node.process


def _signal_family(running: CocoonProcess, number: signal.Signals) -> None:
    """The process, and the engines that it runs as children. A process that has not been waited for keeps its id."""
    if running.process.poll() is not None:
        return
    family = psutil.Process(running.process.pid)
    for process in (family, *family.children(recursive=True)):
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def _ending_signals() -> list[signal.Signals]:
    """A closed terminal ends a swarm as well, unless `nohup` says otherwise: it would leave processes behind and, with
    `--netns`, a network."""
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hangup]


@contextmanager
def _place(directory: Path | None) -> Iterator[Path]:
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="cocoon-swarm-") as temporary:
            yield Path(temporary)
        return
    directory.mkdir(parents=True, exist_ok=True)
    if answers(directory):
        raise ConfigError(f"a swarm runs in {directory} already; stop it, or name another with --dir")
    yield directory.resolve()


def _packets_text(counts: Mapping[str, int]) -> str:
    what = {"lost": "lost", "queue_full": "dropped by full lines", "cut": "cut off", "refused": "refused by NATs"}
    rest = ", ".join(f"{counts[key]} {text}" for key, text in what.items() if counts[key])
    carried = f"the relay carried {counts['carried']} packets, {counts['carried_bytes'] / 1e6:.1f} MB"
    return f"{carried}; {rest}" if rest else carried


def _with_peer(addr: str, peer_id: str) -> str:
    return addr if "/p2p/" in addr else f"{addr}/p2p/{peer_id}"


def _plain(ready: dict[str, Any]) -> dict[str, Any]:
    return {key: ready[key] for key in ("peer_id", "addrs", "wallet") if key in ready}


__all__ = ["Swarm", "run_swarm"]
