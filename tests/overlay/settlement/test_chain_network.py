"""Mainnet, testnet and devnets differ by their config file only, and a file that contradicts itself is refused."""

from __future__ import annotations

import base64
import contextlib
import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.settlement.chain import read_global_config
from overlay.settlement.chain.heads import default_quorum
from overlay.settlement.chain.limits import MAX_SERVERS
from overlay.settlement.chain.pool import LitePool

ZERO_HASH = base64.b64encode(bytes(32)).decode()


def block(seqno: int, root: str, file: str) -> dict[str, Any]:
    return {"workchain": -1, "shard": -(2**63), "seqno": seqno, "root_hash": root, "file_hash": file}


def server(index: int, ip: int = -2018135749) -> dict[str, Any]:
    key = base64.b64encode(index.to_bytes(32, "big")).decode()
    return {"ip": ip, "port": 53312, "provided": "Beavis", "id": {"@type": "pub.ed25519", "key": key}}


MAINNET: dict[str, Any] = {
    "@type": "config.global",
    "dht": {"@type": "dht.config.global", "k": 6, "a": 3, "static_nodes": {"@type": "dht.nodes", "nodes": []}},
    "liteservers": [server(index) for index in range(1, 21)],
    "validator": {
        "@type": "validator.config.global",
        "zero_state": block(
            0, "F6OpKZKqvqeFp6CQmFomXNMfMj2EnaUSOXN+Mh+wVWk=", "XplPz01CXAps5qeSWUtxcyBfdAo5zVb1N979KLSKD24="
        ),
        "init_block": block(
            34835953, "VpWyfNOLm8Rqt6CZZ9dZGqJRO3NyrlHHYN1k1oLbJ6g=", "8o12KX54BtJM8RERD1J97Qe1ZWk61LIIyXydlBnixK8="
        ),
        "hardforks": [block(8536841, ZERO_HASH, ZERO_HASH)],
    },
}
"""The shape of mainnet's file, with its real zero state and a real initial block."""

TESTNET = copy.deepcopy(MAINNET)
TESTNET["validator"]["zero_state"] = block(
    0, "gj+B8wb/AmlPk1z1AhVI484rhrUpgSr2oSFIh56VoSg=", "Z+IKwYS54DmmJmesw/nAD5DzWadnOCMzee+kdgSYDOg="
)


def test_mainnet_is_known_by_its_zero_state() -> None:
    network = read_global_config(MAINNET)
    assert (network.name, network.network_id) == ("mainnet", -239)
    assert len(network.servers) == 20
    assert str(network.servers[0]) == "135.181.177.59:53312"
    assert network.init_block.seqno == 34835953
    assert network.init_block.root_hash.hex().startswith("5695b27cd38b9bc4")
    assert network.store_key() == network.init_block.root_hash.hex()


def test_testnet_is_known_by_its_zero_state() -> None:
    assert (read_global_config(TESTNET).name, read_global_config(TESTNET).network_id) == ("testnet", -3)


def test_a_devnet_says_itself_which_it_is(net: Any) -> None:
    network = read_global_config(net.config)
    assert (network.name, network.network_id) == ("devnet", -667)


def test_a_devnet_that_has_mainnets_zero_state_contradicts_itself() -> None:
    mixed = {**MAINNET, "devnet": {"network_id": -667, "faucet": {}}}
    with pytest.raises(ValueError, match="contradicts itself"):
        read_global_config(mixed)


def test_a_network_nobody_knows_is_taken_for_what_its_servers_prove() -> None:
    other = copy.deepcopy(MAINNET)
    other["validator"]["zero_state"]["root_hash"] = base64.b64encode(b"x" * 32).decode()
    network = read_global_config(other)
    assert (network.name, network.network_id, network.zero_state) == ("unknown", None, b"x" * 32)


def test_a_config_with_servers_only_will_do_but_not_for_trust_level_0() -> None:
    network = read_global_config({"liteservers": [server(1)]})
    assert network.init_block is None
    assert network.network_id is None
    LitePool(network, trust_level=1, quorum=0, store=None)
    with pytest.raises(ValueError, match="init_block"):
        LitePool(network, trust_level=0, quorum=0, store=None)


def test_addresses_may_be_signed_or_unsigned_and_a_key_counts_once() -> None:
    listed = [server(1, 2130706433), server(2, 4294967295), server(3, -1), server(1, 16909060)]
    servers = read_global_config({"liteservers": listed}).servers
    assert [entry.host for entry in servers] == ["127.0.0.1", "255.255.255.255", "255.255.255.255"]


def test_no_more_servers_are_considered_than_the_limit() -> None:
    listed = [server(index) for index in range(1, 200)]
    assert len(read_global_config({"liteservers": listed}).servers) == MAX_SERVERS


@pytest.mark.parametrize(
    "change",
    [
        {"liteservers": []}, {"liteservers": None}, {"liteservers": [{}]}, {"liteservers": ["x"]},
        {"liteservers": [{**server(1), "port": 0}]}, {"liteservers": [{**server(1), "port": 70_000}]},
        {"liteservers": [{**server(1), "id": {"key": "AAAA"}}]}, {"liteservers": [{**server(1), "ip": "example.org"}]},
        {"validator": {"init_block": {"seqno": 1}}}, {"validator": {"init_block": block(1, "??", ZERO_HASH)}},
        {"validator": {"init_block": {**block(1, ZERO_HASH, ZERO_HASH), "workchain": 0}}}, {"validator": 7},
        {"devnet": {}} | {"devnet": {"network_id": None}},
    ],
)  # fmt: skip
def test_a_malformed_file_is_refused_in_one_kind_of_error(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="global config"):
        read_global_config({**MAINNET, **change})


NAMES = ["liteservers", "validator", "zero_state", "init_block", "ip", "port", "id", "key", "root_hash", "devnet"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["liteservers", "validator", "devnet"]), json_values))
def test_whatever_a_file_holds_reading_it_ends_in_a_network_or_a_value_error(config: dict[str, Any]) -> None:
    with contextlib.suppress(ValueError):
        read_global_config(config)


@pytest.mark.parametrize(("servers", "quorum"), [(1, 1), (2, 2), (3, 2), (20, 2)])
def test_the_usual_quorum_is_two_where_there_are_two(servers: int, quorum: int) -> None:
    assert default_quorum(servers) == quorum


@pytest.mark.parametrize(("level", "quorum"), [(3, 0), (-1, 0), (1, 21), (1, -1)])
def test_impossible_trust_is_refused(level: int, quorum: int) -> None:
    with pytest.raises(ValueError, match=r"trust level|quorum"):
        LitePool(read_global_config(MAINNET), trust_level=level, quorum=quorum, store=None)
