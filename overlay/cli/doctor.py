"""`cocoon node doctor`: what a node needs on this machine, each thing with its fix."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import trio

from compute.engines import EngineUnavailable
from compute.hardware import survey
from overlay.chain import load_network_config, local_devnet
from overlay.config import Config
from overlay.control import answers
from overlay.errors import CocoonError
from overlay.events import EventLog, NodeEvent
from overlay.node.engines import make_engines
from overlay.settlement import SettlementError
from overlay.settlement.chain import TonClient
from overlay.settlement.devnet.tvm import node_modules, node_program

MIN_FREE_BYTES = 1 << 30
MIN_FILES = 1024
"""Each peer and each tunnel is a file descriptor."""


@dataclass(frozen=True)
class Finding:
    """One check. ``optional`` things do not keep a node from running; ``fix`` is empty when nothing is amiss."""

    check: str
    ok: bool
    found: str
    fix: str = ""
    optional: bool = False


async def examine(config: Config, data_dir: Path) -> list[Finding]:
    """Run every check, in the order in which they matter."""
    return [
        _python(),
        _data_dir(data_dir),
        _files(),
        *_ports(config, data_dir),
        await trio.to_thread.run_sync(_hardware),
        *await trio.to_thread.run_sync(lambda: _engines(config)),
        await _network(config),
        await _devnet(),
    ]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    ok = sys.version_info >= (3, 11)
    return Finding("Python", ok, version, "" if ok else "install Python 3.11 or newer")


def _data_dir(path: Path) -> Finding:
    existing = next(p for p in (path, *path.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if not os.access(existing, os.W_OK):
        return Finding("data directory", False, f"{existing} is not writable", "name another with --data-dir")
    ok = free >= MIN_FREE_BYTES
    return Finding(
        "data directory", ok, f"{path}, {free >> 20} MiB free", "" if ok else "make room: the ledger must be written"
    )


def _files() -> Finding:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    ok = limit >= MIN_FILES
    return Finding(
        "open files", ok, f"at most {limit}", "" if ok else f"raise it: ulimit -n {MIN_FILES}", optional=True
    )


def _ports(config: Config, data_dir: Path) -> list[Finding]:
    if answers(data_dir):
        return [Finding("listen address", True, "a node runs in this data directory and listens")]
    return [_port(addr) for addr in config.node.listen]


def _port(addr: str) -> Finding:
    parts = addr.split("/")
    try:
        host, port = parts[2], int(parts[4])
    except (IndexError, ValueError):
        return Finding("listen address", False, addr, "write it like /ip4/0.0.0.0/tcp/4001")
    six = ":" in host
    try:
        with socket.socket(socket.AF_INET6 if six else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if six:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((host, port))
    except OSError as error:
        if host == "::" and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            return Finding("listen address", True, f"{addr} is left out: this machine has no IPv6", optional=True)
        fix = "stop what listens there, or choose another with --listen"
        return Finding("listen address", False, f"{addr}: {error.strerror}", fix)
    return Finding("listen address", True, f"{addr} is free")


def _hardware() -> Finding:
    machine = survey()
    memory = machine.memory_total / 2**30
    gpus = ", ".join(f"{gpu.name} ({gpu.memory_total >> 30} GiB)" for gpu in machine.gpus)
    found = f"{machine.cpu}, {machine.cores_usable} cores, {memory:.0f} GiB; " + (gpus or f"no GPU: {machine.gpu_note}")
    return Finding("hardware", True, found, optional=True)


def _engines(config: Config) -> list[Finding]:
    problems: list[str] = []

    def note(event: NodeEvent) -> None:
        problems.append(event.text)

    findings = []
    try:
        engines = make_engines(config, EventLog(note, lambda: 0.0))
    except CocoonError as error:
        return [Finding("engines", False, str(error), "see docs/engines.md")]
    for engine in engines:
        try:
            engine.load()
            offered = ", ".join(sorted({f"{c.task} by {c.model}" for c in engine.capabilities()}))
            findings.append(Finding(f"engine {engine.name}", True, offered))
        except EngineUnavailable as error:
            findings.append(Finding(f"engine {engine.name}", False, "cannot run here", str(error), optional=True))
        finally:
            engine.close()
    findings += [Finding("engine", False, "cannot run here", text, optional=True) for text in problems]
    if not any(finding.ok for finding in findings):
        findings.append(Finding("engines", False, "none runs", "with no engine there is nothing to sell"))
    return findings


async def _network(config: Config) -> Finding:
    if not config.ton.config:
        running = await trio.to_thread.run_sync(local_devnet)
        found = "the local devnet runs" if running else "none configured: a node starts a devnet with play money"
        return Finding("TON network", True, found, optional=True)
    try:
        document = load_network_config(Path(config.ton.config))
        with trio.fail_after(20):
            async with TonClient.connect(document) as client:
                return Finding("TON network", True, f"network {client.network_id} answers, with proofs that hold")
    except (CocoonError, SettlementError, ValueError, trio.TooSlowError) as error:
        return Finding("TON network", False, str(error) or "no answer in 20 s", "check --ton and the connection")


async def _devnet() -> Finding:
    try:
        program, packages = await node_program(), node_modules()
    except SettlementError as error:
        return Finding("devnet", False, "cannot start here", str(error), optional=True)
    return Finding("devnet", True, f"can start: {program}, {packages}", optional=True)
