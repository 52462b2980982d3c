"""Opening a stream, to be awaited or entered; and taking those that the peer opens, one after the other."""

from __future__ import annotations

from collections.abc import Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from transport.tunnel.errors import TunnelClosed
from transport.tunnel.stream import TunnelStream

if TYPE_CHECKING:
    from transport.tunnel.tunnel import Tunnel


class StreamOpening:
    """What :meth:`Tunnel.open_stream` returns: to be awaited, or entered with ``async with``."""

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self._stream: TunnelStream | None = None

    def __await__(self) -> Generator[Any, Any, TunnelStream]:
        return self._tunnel._new_stream().__await__()

    async def __aenter__(self) -> TunnelStream:
        self._stream = await self._tunnel._new_stream()
        return self._stream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._stream is not None
        await self._stream.__aexit__(kind, error, trace)


class IncomingStreams:
    """What :meth:`Tunnel.incoming` returns. No generator: whoever leaves the loop early leaves nothing to be closed."""

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel

    def __aiter__(self) -> IncomingStreams:
        return self

    async def __anext__(self) -> TunnelStream:
        try:
            return await self._tunnel.accept()
        except TunnelClosed:
            raise StopAsyncIteration from None
