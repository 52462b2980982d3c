"""One end of one connection of one kind, a process of its own on a core of its own.

`python -m simulations.bench.tunnel_peer KIND server|client CORE DIRECTORY OPTIONS` where OPTIONS is JSON: ``bulk_mib``,
``small`` (4 KiB messages), ``pings``, and for clients what the server said in its first line. The server prints
``{"ready": …}`` first; both print ``{"bulk": …, "small": …, "ping": …}`` at the end. The client's clock counts: from
the first send until the server's answer to the last message.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import trio

from simulations.bench.report import percentile
from simulations.bench.tunnel_channels import (
    DESTINATION_MIB,
    MIB,
    TUNED_BUFFER,
    TUNED_CONGESTION,
    Channel,
    Destination,
    GrpcChannel,
    Libp2pChannel,
    SealedChannel,
    SocketChannel,
    TrioChannel,
    TunnelChannel,
    ZmqChannel,
    run_blocking,
    tls_context,
    tune,
)
from transport.identity import Identity
from transport.tunnel import Tuning, Tunnel, TunnelEndpoint, dial, open_tunnel_listener

HOST = "127.0.0.1"
SMALL_BYTES = 4096
PING_BYTES = 64
WARM_PINGS = 200
SYSTEM = Tuning()
TUNED = Tuning(buffer_bytes=TUNED_BUFFER, congestion=TUNED_CONGESTION.decode())

SPIN = Tuning(spin_seconds=100e-6)


def say(**document: Any) -> None:
    """One line of JSON."""
    print(json.dumps(document), flush=True)


def cpu_s() -> float:
    """CPU seconds of this process so far, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def drive(channel: Channel, server: bool, options: dict[str, Any]) -> None:
    """Both ends' part of all measures; prints this end's results."""
    block = os.urandom(MIB)
    result = {"ping": await _pings(channel, server, options["pings"], block[:PING_BYTES])}
    many = 1 if server or not options["bulk_mib"] else DESTINATION_MIB
    plan = (
        ("bulk", [bytes(bytearray(block)) for _ in range(many)], options["bulk_mib"]),
        ("small", [block[:SMALL_BYTES]], options["small"]),
    )
    for name, messages, count in plan:
        if count:
            result[name] = await _one_way(channel, server, messages, count)
    say(**result)


async def _pings(channel: Channel, server: bool, count: int, message: bytes) -> dict[str, float]:
    times = []
    for index in range(WARM_PINGS + count if count else 0):
        started = time.perf_counter()
        if server:
            await channel.sink(len(message), 1)
            await channel.send(message)
        else:
            await channel.send(message)
            await channel.sink(len(message), 1)
        if index >= WARM_PINGS:
            times.append((time.perf_counter() - started) * 1e6)
    return {"p50_us": percentile(times, 50), "p99_us": percentile(times, 99)} if times and not server else {}


async def _one_way(channel: Channel, server: bool, messages: list[bytes], count: int) -> dict[str, float]:
    """The client sends ``messages`` in turn, all of one size; the server answers when it has all."""
    if server:
        await channel.send(b"r")  # its memory is there: nobody's clock counts what that took
        await channel.sink(1, 1)
        started, used = time.perf_counter(), cpu_s()
        await channel.sink(len(messages[0]), count)
        await channel.send(b"a")
    else:
        await channel.sink(1, 1)
        await channel.send(b"g")
        started, used = time.perf_counter(), cpu_s()
        for index in range(count):
            await channel.send(messages[index % len(messages)])
        await channel.sink(1, 1)
    wall, used = time.perf_counter() - started, cpu_s() - used
    size = len(messages[0]) * count
    return {"mb_s": size / wall / 1e6, "per_s": count / wall, "cpu_s_per_gb": used / size * 1e9}


def tcp(server: bool, options: dict[str, Any], *, tuned: bool) -> socket.socket:
    """A connected blocking socket."""
    if not server:
        sock = socket.create_connection((HOST, options["port"]))
        tune(sock, tuned=tuned)
        return sock
    with socket.create_server((HOST, 0)) as listener:
        tune(listener, tuned=tuned)
        say(ready={"port": listener.getsockname()[1]})
        sock, _ = listener.accept()
    tune(sock, tuned=tuned)
    return sock


def memory(server: bool, options: dict[str, Any]) -> Destination:
    """What this end receives into."""
    return Destination(DESTINATION_MIB if server and options["bulk_mib"] else 1)


def plain_tcp(
    server: bool, directory: str, options: dict[str, Any], *, tuned: bool, channel: type[Any] = SocketChannel
) -> None:
    """Blocking sockets, nothing on top; or what ``channel`` puts there."""
    run_blocking(drive(channel(tcp(server, options, tuned=tuned), memory(server, options)), server, options))


def tls(server: bool, directory: str, options: dict[str, Any]) -> None:
    """The standard library's TLS 1.3 over a blocking socket."""
    name = None if server else "localhost"
    with tcp(server, options, tuned=False) as raw:
        sock = tls_context(directory, server=server).wrap_socket(raw, server_side=server, server_hostname=name)
        run_blocking(drive(SocketChannel(sock, memory(server, options)), server, options))


def zmq(server: bool, directory: str, options: dict[str, Any]) -> None:
    """A pyzmq with CURVE on, as libsodium does it."""
    import zmq as pyzmq

    with pyzmq.Context() as context, context.socket(pyzmq.PAIR) as sock:
        sock.setsockopt(pyzmq.SNDHWM, 64)
        sock.setsockopt(pyzmq.RCVHWM, 64)
        public, secret = pyzmq.curve_keypair()
        sock.curve_publickey, sock.curve_secretkey = public, secret
        if server:
            sock.curve_server = True
            port = sock.bind_to_random_port(f"tcp://{HOST}")
            say(ready={"port": port, "key": public.decode()})
        else:
            sock.curve_serverkey = options["key"].encode()
            sock.connect(f"tcp://{HOST}:{options['port']}")
        run_blocking(drive(ZmqChannel(sock), server, options))


def grpc(server: bool, directory: str, options: dict[str, Any]) -> None:
    """One stream of raw bytes in gRPC over TLS."""
    import grpc as google  # type: ignore[import-untyped,unused-ignore]  # its stubs are a package of their own

    limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with open(f"{directory}/cert.pem", "rb") as file:
        certificate = file.read()
    if not server:
        credentials = google.ssl_channel_credentials(certificate)
        with google.secure_channel(f"{HOST}:{options['port']}", credentials, options=limits) as connection:
            channel = GrpcChannel(iter(()))
            channel.connect(connection.stream_stream("/bench/Stream")(channel.outgoing(), wait_for_ready=True))
            run_blocking(drive(channel, server, options))
            channel.finish()
        return
    done = threading.Event()

    def handler(incoming: Any, context: Any) -> Any:
        channel = GrpcChannel(incoming)

        def work() -> None:
            run_blocking(drive(channel, server, options))
            channel.finish()
            done.set()

        threading.Thread(target=work).start()
        return channel.outgoing()

    with open(f"{directory}/key.pem", "rb") as file:
        credentials = google.ssl_server_credentials([(file.read(), certificate)])
    listener = google.server(ThreadPoolExecutor(2), options=limits)
    method = google.stream_stream_rpc_method_handler(handler)
    listener.add_generic_rpc_handlers((google.method_handlers_generic_handler("bench", {"Stream": method}),))
    port = listener.add_secure_port(f"{HOST}:0", credentials)
    listener.start()
    say(ready={"port": port})
    done.wait()
    listener.stop(1).wait()


async def libp2p(server: bool, directory: str, options: dict[str, Any]) -> None:
    """py-libp2p with its defaults, which are Noise and yamux."""
    from libp2p import new_host
    from libp2p.peer.peerinfo import info_from_p2p_addr
    from multiaddr import Multiaddr

    host, done = new_host(), trio.Event()

    async def handler(stream: Any) -> None:
        await drive(Libp2pChannel(stream), server, options)
        done.set()

    async with host.run(listen_addrs=[Multiaddr(f"/ip4/{HOST}/tcp/{free_port()}")]):
        if server:
            host.set_stream_handler("/bench/1", handler)
            address = str(host.get_addrs()[0])
            say(ready={"address": address})
            await done.wait()
            await trio.sleep(0.5)  # its answer is still on the way, and closing would cut it off
        else:
            info = info_from_p2p_addr(Multiaddr(options["address"]))
            await host.connect(info)
            stream = await host.new_stream(info.peer_id, ["/bench/1"])
            await drive(Libp2pChannel(stream), server, options)
        sys.stdout.flush()
        os._exit(0)  # closing a host takes seconds, which nobody measures


def free_port() -> int:
    """A port that was free a moment ago, for hosts that must be told one."""
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


async def trio_tcp(server: bool, directory: str, options: dict[str, Any]) -> None:
    """Plain TCP under trio."""
    if not server:
        async with await trio.open_tcp_stream(HOST, options["port"]) as stream:
            await drive(TrioChannel(stream), server, options)
        return
    (listener,) = await trio.open_tcp_listeners(0, host=HOST)
    async with listener:
        say(ready={"port": listener.socket.getsockname()[1]})
        async with await listener.accept() as stream:
            await drive(TrioChannel(stream), server, options)


def endpoint(server: bool, padding: bool = False) -> TunnelEndpoint:
    """Fixed keys: they are no secret here, and save a line of talk."""
    return TunnelEndpoint.of(Identity(sha256(b"server" if server else b"client").digest()), padding=padding)


@asynccontextmanager
async def client_tunnel(options: dict[str, Any], tuning: Tuning, padding: bool = False) -> AsyncIterator[Tunnel]:
    """A tunnel to the server with Noise IK, as after reading its signed record."""
    theirs, mine = endpoint(True), endpoint(False, padding)
    key = theirs.static_key.public
    async with await dial(mine, options["addr"], theirs.peer_id, static_key=key, tuning=tuning) as tunnel:
        yield tunnel


async def tunnel(
    server: bool, directory: str, options: dict[str, Any], *, tuning: Tuning = SYSTEM, padding: bool = False
) -> None:
    """One stream of one tunnel."""
    done = trio.Event()

    async def handler(tunnel: Tunnel) -> None:
        try:
            async with await tunnel.accept() as stream:
                await drive(TunnelChannel(stream, memory(server, options)), server, options)
                await stream.receive_messages()
        finally:
            done.set()

    if server:
        async with open_tunnel_listener(endpoint(True, padding), HOST, 0, handler, tuning=tuning) as listener:
            say(ready={"addr": listener.addrs[0]})
            await done.wait()
    else:
        async with client_tunnel(options, tuning, padding) as mine, mine.open_stream() as stream:
            await drive(TunnelChannel(stream, memory(server, options)), server, options)


KINDS: dict[str, Callable[[bool, str, dict[str, Any]], Any]] = {
    "plain_tcp_tuned": lambda *given: plain_tcp(*given, tuned=True),
    "plain_tcp": lambda *given: plain_tcp(*given, tuned=False),
    "sealed": lambda *given: plain_tcp(*given, tuned=False, channel=SealedChannel),
    "sealed_tuned": lambda *given: plain_tcp(*given, tuned=True, channel=SealedChannel),
    "tls": tls,
    "zmq": zmq,
    "grpc": grpc,
    "libp2p": lambda *given: trio.run(libp2p, *given),
    "plain_trio": lambda *given: trio.run(trio_tcp, *given),
    "tunnel_tuned": lambda *given: trio.run(lambda: tunnel(*given, tuning=TUNED)),
    "tunnel": lambda *given: trio.run(lambda: tunnel(*given)),
    "tunnel_padded": lambda *given: trio.run(lambda: tunnel(*given, padding=True)),
    "tunnel_spin": lambda *given: trio.run(lambda: tunnel(*given, tuning=SPIN)),
}


def main() -> None:
    """Run one end."""
    kind, role, core, directory, options = sys.argv[1:6]
    os.sched_setaffinity(0, {int(core)})
    KINDS[kind](role == "server", directory, json.loads(options))


if __name__ == "__main__":
    main()
