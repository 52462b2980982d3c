"""The tunnel beside its peers: bulk, small messages, round trips, tokens beside a tensor, memory, handshakes.

Every connection is two fresh processes, each pinned to a core of its own, over loopback. Rounds are interleaved: in
each, every kind has its turn, so that a machine that slows down slows all of them. Values are medians of the rounds;
ratios are the medians of the ratios within rounds, always tunnel : peer, so 2 means twice as fast (or, for times, twice
as long). Bulk messages come from, and go to, 256 MiB of memory in turn. The kinds are described in
:mod:`tunnel_channels`; only ``bulk-tuned`` sets TCP options beyond NODELAY, for the tunnel and plain TCP alike.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from overlay.cli.output import Output
from simulations.bench.report import Row
from simulations.bench.stage import BenchFailed, module

PEERS = ("plain_tcp", "tls", "zmq", "grpc", "libp2p")
"""Named as in ``ratios``."""

PAIR_TIMEOUT_S = 120.0
Results = dict[str, dict[str, Any]]


def _plan(quick: bool) -> dict[str, dict[str, Any]]:
    """What each kind carries in one round; slow kinds less, for the rate is what counts."""
    share = 4 if quick else 1
    usual = {"bulk_mib": 1024 // share, "small": 80_000 // share, "pings": 2000 // share}
    slow = {"bulk_mib": 64 // share, "small": 4_000 // share, "pings": 1000 // share}
    pings = {"bulk_mib": 0, "small": 0, "pings": 2000 // share}
    return {
        "plain_tcp_tuned": {**usual, "small": 0, "pings": 0},
        "tunnel_tuned": {**usual, "small": 0, "pings": 0},
        "sealed_tuned": {**usual, "small": 0, "pings": 0},
        "plain_tcp": usual,
        "tunnel": usual,
        "sealed": {**usual, "small": 0, "pings": 0},
        "tls": {**usual, "bulk_mib": 512 // share},
        "zmq": {**usual, "bulk_mib": 512 // share},
        "grpc": {**usual, "bulk_mib": 512 // share, "small": 8_000 // share},
        "libp2p": slow,
        "plain_trio": pings,
        "tunnel_padded": pings,
        "tunnel_spin": pings,
    }


async def tunnel_rows(quick: bool, output: Output) -> list[Row]:
    """All rows. Raises :class:`BenchFailed` when a peer is missing or does not do its work."""
    rounds: list[Results] = []
    count = 2 if quick else 5
    mib = 256 if quick else 1024
    with tempfile.TemporaryDirectory(prefix="cocoon-bench-") as directory:
        _certificate(Path(directory))
        for number in range(count):
            results: Results = {}
            for kind, options in _plan(quick).items():
                output.note(f"round {number + 1} of {count}: {kind}")
                results[kind] = await _pair("tunnel_peer", kind, directory, options)
            for measure, options in (
                ("tokens", {"mib": mib}),
                ("memory", {"mib": mib}),
                ("handshakes", {"single": 200 if quick else 500, "count": 400 if quick else 1600}),
            ):
                output.note(f"round {number + 1} of {count}: {measure}")
                results[measure] = await _pair("tunnel_special", measure, directory, options)
            rounds.append(results)
    return [*_bulk_rows(rounds), _small_row(rounds), _ping_row(rounds), *_special_rows(rounds)]


async def _pair(program: str, kind: str, directory: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Run both ends of one kind to their end; what they said, the server's part under ``server``."""
    cores = sorted(os.sched_getaffinity(0))

    def command(role: str, given: Mapping[str, Any]) -> list[str]:
        core = cores[0] if role == "server" else cores[-1]
        return module(f"simulations.bench.{program}", kind, role, str(core), directory, json.dumps(given))

    with trio.move_on_after(PAIR_TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            server: trio.Process = await nursery.start(_start, command("server", options))
            said = await _hear(server, b"\n")
            first, _, said = said.partition(b"\n")
            failure = "" if first else f"{kind}'s server ended: {await _complaint(server)}"
            if first:
                ready = json.loads(first)["ready"]
                client = await trio.run_process(
                    command("client", {**options, **ready}), capture_stdout=True, capture_stderr=True, check=False
                )
                if client.returncode or not client.stdout.strip():
                    failure = f"{kind}'s client failed: {client.stderr.decode(errors='replace').strip()[-500:]}"
                else:
                    said += await _hear(server)
            nursery.cancel_scope.cancel()
        if failure or not said.strip():
            raise BenchFailed(failure or f"{kind}'s server said nothing")
        return {**json.loads(client.stdout), "server": json.loads(said.strip().splitlines()[-1])}
    raise BenchFailed(f"{kind} took more than {PAIR_TIMEOUT_S:.0f} s")


async def _hear(process: trio.Process, until: bytes = b"") -> bytes:
    """What a process says: until it has said ``until``, if given, and else until it ends."""
    assert process.stdout is not None
    said = b""
    while not until or until not in said:
        data = await process.stdout.receive_some()
        if not data:
            break
        said += data
    return said


async def _start(command: list[str], task_status: trio.TaskStatus[trio.Process] = trio.TASK_STATUS_IGNORED) -> None:
    """A process that is killed when the nursery is cancelled."""
    await trio.run_process(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, task_status=task_status,
        deliver_cancel=_kill,
    )  # fmt: skip


async def _kill(process: trio.Process) -> None:
    process.kill()


async def _complaint(process: trio.Process) -> str:
    assert process.stderr is not None
    said = b""
    while data := await process.stderr.receive_some():
        said += data
    return said.decode(errors="replace").strip()[-500:]


def _certificate(directory: Path) -> None:
    """A key and a self-signed certificate for localhost, for TLS and gRPC."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    day = datetime.timedelta(days=1)
    builder = builder.not_valid_before(now - day).not_valid_after(now + day)
    certificate = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    (directory / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / "key.pem").write_bytes(private)


# --- rows ------------------------------------------------------------------------------------------------------------


def _medians(rounds: Sequence[Results], kind: str, measure: str, field: str) -> float:
    return float(statistics.median(results[kind][measure][field] for results in rounds))


def _ratio(rounds: Sequence[Results], ours: str, peer: str, measure: str, field: str) -> float:
    return float(statistics.median(r[ours][measure][field] / r[peer][measure][field] for r in rounds))


def _compared(
    rounds: Sequence[Results], ours: str, peers: Mapping[str, str], measure: str, field: str
) -> dict[str, dict[str, float]]:
    """``ratios``, every peer's values, and CPU seconds a gigabyte [sender, receiver] where they were taken."""
    found: dict[str, dict[str, Any]] = {
        "ratios": {name: _short(_ratio(rounds, ours, kind, measure, field)) for name, kind in peers.items()}
    }
    for value in ("mb_s", "per_s", "p50_us"):
        if value in rounds[0][ours][measure]:
            found[value] = {
                name: _short(_medians(rounds, kind, measure, value)) for name, kind in {"tunnel": ours, **peers}.items()
            }
    if "cpu_s_per_gb" in rounds[0][ours][measure]:
        found["cpu_s_per_gb"] = {
            name: [
                _short(_medians(rounds, kind, measure, "cpu_s_per_gb")),
                _short(statistics.median(r[kind]["server"][measure]["cpu_s_per_gb"] for r in rounds)),
            ]
            for name, kind in {"tunnel": ours, **peers}.items()
        }
    return found


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _samples(rounds: Sequence[Results], kind: str, measure: str, field: str) -> list[float]:
    return [_short(results[kind][measure][field]) for results in rounds]


SAME = {name: name for name in PEERS}


def _bulk_rows(rounds: Sequence[Results]) -> list[Row]:
    tuned_peers = {**SAME, "plain_tcp": "plain_tcp_tuned", "sealed": "sealed_tuned"}
    tuned = _compared(rounds, "tunnel_tuned", tuned_peers, "bulk", "mb_s")
    stock = _compared(rounds, "tunnel", {**SAME, "sealed": "sealed"}, "bulk", "mb_s")
    sealed = "sealed: AES-256-GCM over a blocking socket and nothing else, one send a message"
    marks = {"tls": 1.5, "zmq": 1.5, "grpc": 2.5, "libp2p": 15.0}
    return [
        Row(
            "bulk-tuned",
            "bulk, 1 MiB messages, multiplexed and authenticated, same TCP tuning on both",
            tuned["mb_s"]["tunnel"],
            "MB/s",
            "≥ 0.75 × plain TCP",
            tuned["ratios"]["plain_tcp"] >= 0.75,
            _samples(rounds, "tunnel_tuned", "bulk", "mb_s"),
            {**tuned, "note": f"tls, zmq, grpc and libp2p with the system's settings; {sealed}"},
        ),
        Row(
            "bulk-default",
            "same, system defaults",
            stock["mb_s"]["tunnel"],
            "MB/s",
            ", ".join(f"≥ {mark:g} × {name}" for name, mark in marks.items()),
            all(stock["ratios"][name] >= mark for name, mark in marks.items()),
            _samples(rounds, "tunnel", "bulk", "mb_s"),
            {**stock, "note": sealed},
        ),
    ]


def _small_row(rounds: Sequence[Results]) -> Row:
    small = _compared(rounds, "tunnel", SAME, "small", "per_s")
    rate = small["per_s"]["tunnel"]
    return Row(
        "small",
        "4 KiB messages corked",
        rate,
        "1/s",
        "≥ 200000, ≥ 2 × tls",
        rate >= 200_000 and small["ratios"]["tls"] >= 2,
        _samples(rounds, "tunnel", "small", "per_s"),
        dict(small),
    )


def _ping_row(rounds: Sequence[Results]) -> Row:
    beside = {name: name for name in ("plain_trio", "tunnel_padded", "tunnel_spin")}
    found = _compared(rounds, "tunnel", {**SAME, **beside}, "ping", "p50_us")
    found["ratios"] = {name: found["ratios"][name] for name in ("plain_trio", *PEERS)}
    return Row(
        "ping-pong",
        "64 B ping-pong under trio, p50",
        found["p50_us"]["tunnel"],
        "µs",
        "≤ 1.3 × plain trio TCP",
        found["ratios"]["plain_trio"] <= 1.3,
        _samples(rounds, "tunnel", "ping", "p50_us"),
        dict(found),
    )


def _special_rows(rounds: Sequence[Results]) -> list[Row]:
    """The rows that no peer has a part in; their ratios are null."""
    none: dict[str, Any] = {"ratios": dict.fromkeys(PEERS)}
    p99 = [_short(r["tokens"]["server"]["p99_ms"]) for r in rounds]
    memory = [{name: _short(value) for name, value in r["memory"]["server"].items()} for r in rounds]
    most = [max(sample.values()) for sample in memory]
    first = [_short(r["handshakes"]["p50_ms"]) for r in rounds]
    rates = [_short(r["handshakes"]["per_s"]) for r in rounds]
    token_ms, memory_mib = statistics.median(p99), statistics.median(most)
    first_ms, rate = statistics.median(first), statistics.median(rates)
    beside = {
        "tensor_mb_s": [_short(r["tokens"]["server"]["mb_s"]) for r in rounds],
        "p50_ms": [_short(r["tokens"]["server"]["p50_ms"]) for r in rounds],
    }
    shaken = {
        "per_s": rates,
        "p99_ms": [_short(r["handshakes"]["p99_ms"]) for r in rounds],
        "client_cpu_ms": [_short(r["handshakes"]["cpu_ms"]) for r in rounds],
    }
    return [
        Row(
            "token-beside-tensor",
            "a token frame while a 1 GiB tensor streams the same way, p99",
            token_ms, "ms", "≤ 5 ms", token_ms <= 5, p99, {**none, **beside},
        ),
        Row(
            "receiver-memory",
            "receiver memory beyond the destination tensor",
            memory_mib, "MiB", "≤ 8 MiB", memory_mib <= 8, most, {**none, "cases": memory},
        ),
        Row(
            "handshake",
            "handshake to first byte, loopback",
            first_ms, "ms", "≤ 2 ms p50; ≥ 800 handshakes/s",
            first_ms <= 2 and rate >= 800, first, {**none, **shaken},
        ),
    ]  # fmt: skip
