"""A load generator for HTTP on loopback, in one thread and cheap enough to share a core with what it measures.

Method: `connections` keep-alive sockets on one epoll, each sends the same prepared request as soon as it has the whole
of the previous answer, until `requests` answers are in or `max_s` has passed. An answer ends where its Content-Length
or its last chunk says; a status other than 200 counts as an error and the run is void. Loopback addresses only.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import time
from dataclasses import dataclass, field

LOOPBACK = ("127.", "localhost", "::1")


@dataclass
class LoadResult:
    """What a run saw: answers, errors, seconds, and each answer's time to first byte and to last, in ms."""

    answers: int = 0
    errors: int = 0
    seconds: float = 0.0
    least_events: int = 0
    """Server-sent events of the shortest answer; 0 for whole answers."""
    first_byte_ms: list[float] = field(default_factory=list)
    whole_ms: list[float] = field(default_factory=list)
    first_error: str = ""

    @property
    def per_second(self) -> float:
        """Whole answers a second."""
        return self.answers / self.seconds if self.seconds else 0.0


def http_request(host: str, port: int, path: str, body: bytes) -> bytes:
    """A keep-alive POST of JSON, ready to send."""
    head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class _Connection:
    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.length: int | None = None
        self.body_start = -1
        self.sent_at = 0.0
        self.first_at = 0.0

    def send(self, request: bytes) -> None:
        self.buffer, self.length, self.body_start, self.first_at = b"", None, -1, 0.0
        self.sent_at = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> bool:
        """Take what is there; whether the answer is now whole."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the server closed the connection in the middle of an answer")
        self.buffer += data
        if self.body_start < 0:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return False
            self.body_start = end + 4
            for line in self.buffer[:end].lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    self.length = int(line.partition(b":")[2])
        if len(self.buffer) > self.body_start and not self.first_at:
            self.first_at = time.perf_counter()
        if self.length is not None:
            return len(self.buffer) - self.body_start >= self.length
        return self.buffer.endswith(b"0\r\n\r\n")


def run_load(
    host: str, port: int, request: bytes, *, connections: int, requests: int, max_s: float = 60.0
) -> LoadResult:
    """Drive the server; see the module's method."""
    if not host.startswith(LOOPBACK):
        raise ValueError("the load generator sends to loopback only")
    result = LoadResult()
    with selectors.DefaultSelector() as selector:
        open_connections = [_Connection((host, port)) for _ in range(min(connections, requests))]
        started = time.perf_counter()
        sent = 0
        for connection in open_connections:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.send(request)
            sent += 1
        while result.answers + result.errors < min(sent, requests) and time.perf_counter() - started < max_s:
            for key, _ in selector.select(1.0):
                connection = key.data
                if not connection.receive():
                    continue
                now = time.perf_counter()
                if connection.buffer.startswith(b"HTTP/1.1 200"):
                    events = connection.buffer.count(b"data: {")
                    result.least_events = min(result.least_events, events) if result.answers else events
                    result.answers += 1
                    result.first_byte_ms.append((connection.first_at - connection.sent_at) * 1e3)
                    result.whole_ms.append((now - connection.sent_at) * 1e3)
                else:
                    result.errors += 1
                    result.first_error = result.first_error or connection.buffer[:400].decode(errors="replace")
                if sent < requests:
                    connection.send(request)
                    sent += 1
        result.seconds = time.perf_counter() - started
        for connection in open_connections:
            connection.socket.close()
    return result


def main() -> None:
    """Run one load in a process of its own and print its result as JSON (the body comes on standard input)."""
    import sys

    parser = argparse.ArgumentParser(description="HTTP load on loopback")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("--connections", type=int, default=30)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--max-s", type=float, default=60.0)
    options = parser.parse_args()
    request = http_request(options.host, options.port, options.path, sys.stdin.buffer.read())
    result = run_load(
        options.host,
        options.port,
        request,
        connections=options.connections,
        requests=options.requests,
        max_s=options.max_s,
    )
    print(json.dumps({"per_second": result.per_second, **result.__dict__}))


if __name__ == "__main__":
    main()
