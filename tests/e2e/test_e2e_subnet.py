"""A private subnet: members work together, and who has no key sees and reaches nothing of it."""

from __future__ import annotations

import os
import re
from contextlib import suppress

import pytest
import trio

from overlay.subnet import load_subnet
from transport.host import HostError, Libp2pHost
from transport.identity import Identity
from transport.tunnel import TunnelEndpoint, TunnelError, dial


@pytest.fixture(scope="module")
def friends(tmp_path_factory, open_town, chain):
    with open_town(tmp_path_factory.mktemp("subnet")) as town:
        file = town.home / "friends.subnet"
        made = town.cocoon("subnet", "create", "friends", "--out", str(file), "--json")
        assert made.code == 0, made.err
        node = town.node("node", "--serve=chat", "--subnet", str(file), ton=chain)
        node.wait_for("ready")
        yield town, file, node, chain
        assert node.stop() == 0


def test_the_file_is_private_and_not_overwritten(friends):
    town, file, *_ = friends
    assert file.stat().st_mode & 0o077 == 0
    again = town.cocoon("subnet", "create", "friends", "--out", str(file))
    assert again.code == 2
    assert "--out" in again.error


def test_members_work_together_through_a_tunnel_that_proves_the_key(friends):
    town, file, node, chain = friends
    said = town.cocoon("chat", "What is Cocoon?", "--subnet", str(file), "--ton", str(chain), "--verbose")
    assert said.code == 0, said.err
    assert said.out.startswith("Cocoon")
    assert "IKpsk2" in said.err
    assert re.fullmatch(r"friends-[0-9a-f]{8}", node.wait_for("ready")["subnet"])


@pytest.mark.parametrize("whose", ["others'", pytest.param("nobody's", marks=pytest.mark.slow)])
def test_who_has_another_key_or_none_finds_nobody(friends, whose):
    town, _, node, chain = friends
    extra = []
    if whose == "others'":
        other = town.home / "other.subnet"
        town.cocoon("subnet", "create", "friends", "--out", str(other))
        extra = ["--subnet", str(other)]
    said = town.cocoon(
        "chat", "hello", *extra, "--ton", str(chain), "--data-dir", str(town.home / f"stranger-{len(extra)}"),
        "--bootstrap", node.wait_for("ready")["addrs"][0],
    )  # fmt: skip
    assert said.code == 3
    assert said.out == ""
    assert node.exit_code is None


async def test_an_insider_s_address_and_keys_alone_open_nothing(friends):
    """Told where the node listens and what its tunnel key is, a stranger still gets no connection and no tunnel."""
    _, file, node, _ = friends
    ready = node.wait_for("ready")
    subnet = load_subnet(file)
    noise_key = TunnelEndpoint.of(Identity(os.urandom(32))).static_key.public  # stands for any: see the last case
    identity = Identity(os.urandom(32))
    with trio.fail_after(60):
        for psk in (None, os.urandom(32)):
            async with Libp2pHost.open(identity, psk=psk) as host:
                # To one another's ears both only talk noise, until a deadline: no need to wait for it.
                with trio.move_on_after(2), suppress(HostError):
                    await host.connect(ready["addrs"][0])
                assert list(host.peers()) == []
            # The right subnet id is no secret; the key is.
            stranger = TunnelEndpoint.of(identity, subnet=subnet.id, psk=psk)
            for key in (None, noise_key):
                with pytest.raises((TunnelError, ValueError)):
                    async with await dial(
                        stranger, ready["tunnel_addrs"][0], ready["peer_id"], static_key=key, deadline_s=1
                    ):
                        pass
        # With the key, and its real static key, a member gets in: what fails above is the key and nothing else.
        async with Libp2pHost.open(identity, psk=subnet.swarm_key) as host:
            from dht import Directory

            async with Directory(host, identity, subnet.id) as directory:
                await host.connect(ready["addrs"][0])
                await directory.wait_for_providers("chat", timeout_s=10)
                ((_, record, _),) = directory.providers("chat")
        member = TunnelEndpoint.of(identity, subnet=subnet.id, psk=subnet.tunnel_psk)
        real = record.noise_key
        async with await dial(member, ready["tunnel_addrs"][0], ready["peer_id"], static_key=real) as tunnel:
            assert tunnel.stats().pattern == "IKpsk2"
        for psk in (None, os.urandom(32)):
            outsider = TunnelEndpoint.of(identity, subnet=subnet.id, psk=psk)
            with pytest.raises((TunnelError, ValueError)):
                async with await dial(
                    outsider, ready["tunnel_addrs"][0], ready["peer_id"], static_key=real, deadline_s=1
                ):
                    pass
    assert node.exit_code is None
