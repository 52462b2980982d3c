"""Hosts on loopback, each with an identity of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from transport.host import Libp2pHost
from transport.identity import Identity

LOOPBACK = "/ip4/127.0.0.1/tcp/0"


@pytest.fixture
def new_host() -> Callable[..., AbstractAsyncContextManager[Libp2pHost]]:
    """Open a host that listens on loopback (``listen=[]``: one that only dials)."""
    count = iter(range(1, 256))

    def opener(**options: Any) -> AbstractAsyncContextManager[Libp2pHost]:
        identity = options.pop("identity", None) or Identity(bytes([next(count)]) * 32)
        return Libp2pHost.open(identity, options.pop("listen", [LOOPBACK]), **options)

    return opener
