"""IPv4 and IPv6 side by side on loopback."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest
import trio
from multiaddr import Multiaddr

from transport.host import HostError
from transport.host.addresses import best_first

BOTH = ["/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0"]


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no ::1")


@needs_ipv6
async def test_a_host_listens_on_both_and_knows_by_which_a_peer_came(new_host: Any) -> None:
    async with new_host(listen=BOTH) as server, new_host(listen=[]) as old, new_host(listen=[]) as new:
        ip4, ip6 = server.addrs
        assert ip4.startswith("/ip4/127.0.0.1/tcp/")
        assert ip6.startswith("/ip6/::1/tcp/")
        await old.connect(ip4)
        await new.connect(ip6)
        with trio.fail_after(5):
            while len(server.peers()) < 2:
                await trio.sleep(0.01)
        came = {info.peer_id: info.addr for info in server.peers()}
        assert came[old.peer_id].startswith("/ip4/127.0.0.1/tcp/")
        assert came[new.peer_id].startswith("/ip6/::1/tcp/")
        assert came[new.peer_id].endswith(f"/p2p/{new.peer_id}")
        assert new.peers()[0].addr == ip6
        assert {record.origin.address for record in server._manager._records.values()} == {"127.0.0.1", "::1"}


@needs_ipv6
async def test_the_family_that_works_is_found_in_one_dial(new_host: Any) -> None:
    async with new_host(listen=["/ip6/::1/tcp/0"]) as server, new_host(listen=[]) as client:
        hints = ["/ip4/127.0.0.1/tcp/1", server.addrs[0].partition("/p2p/")[0]]
        with trio.fail_after(5), pytest.raises(HostError, match="does not speak"):
            await (await client.open_stream(server.peer_id, "/test/none/1", addrs=hints)).wait_opened()
        assert client.peers()[0].addr == server.addrs[0]


@needs_ipv6
async def test_one_port_serves_both_wildcards(new_host: Any) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with new_host(listen=[f"/ip4/0.0.0.0/tcp/{port}", f"/ip6/::/tcp/{port}"]) as server:
        async with new_host(listen=[]) as client, new_host(listen=[]) as other:
            await client.connect(f"/ip4/127.0.0.1/tcp/{port}/p2p/{server.peer_id}")
            await other.connect(f"/ip6/::1/tcp/{port}/p2p/{server.peer_id}")


async def test_a_wildcard_of_a_missing_family_is_skipped_beside_another(
    new_host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    listeners = trio.open_tcp_listeners

    async def without_ipv6(port: int, *, host: str) -> Any:
        if ":" in host:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return await listeners(port, host=host)

    monkeypatch.setattr(trio, "open_tcp_listeners", without_ipv6)
    async with new_host(listen=["/ip4/127.0.0.1/tcp/0", "/ip6/::/tcp/0"]) as host:
        assert len(host.addrs) == 1
    with pytest.raises(HostError, match="address family not supported"):
        async with new_host(listen=["/ip6/::/tcp/0"]):
            pass


def test_public_addresses_of_either_family_are_advertised_before_private_ones() -> None:
    addrs = ["/ip4/10.0.0.1/tcp/1", "/ip4/192.168.0.1/tcp/1", "/ip4/172.17.0.1/tcp/1", "/ip4/172.18.0.1/tcp/1"]
    public = ["/ip6/2600::1/tcp/1", "/dns4/node.example/tcp/1"]
    assert [str(addr) for addr in best_first(map(Multiaddr, addrs + public))] == [*public, *addrs[:2]]
