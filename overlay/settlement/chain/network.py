"""What a ``global.config.json`` says: which network, whose servers, and the block that its trust begins with.

Mainnet, testnet and devnets differ by this file only. The file names the network by the hash of its zero state; the
devnet, which anybody may start, by the ``network_id`` under ``devnet``.
"""

from __future__ import annotations

import base64
import ipaddress
from dataclasses import dataclass
from typing import Any

from pytoniq_core.tl.block import BlockIdExt

from overlay.settlement.chain.limits import MAX_SERVERS

MASTERCHAIN = -1
FULL_SHARD = -(2**63)

ZERO_STATES = {
    "F6OpKZKqvqeFp6CQmFomXNMfMj2EnaUSOXN+Mh+wVWk=": ("mainnet", -239),
    "gj+B8wb/AmlPk1z1AhVI484rhrUpgSr2oSFIh56VoSg=": ("testnet", -3),
}
"""Root hash of the zero state (the chain's very first state) -> the network's name and its ``global_id``."""

NETWORK_IDS = dict(ZERO_STATES.values())
"""Name -> ``global_id`` of the public networks."""


@dataclass(frozen=True)
class ServerAddress:
    """One liteserver: IPv4 address, TCP port, Ed25519 public key in base64."""

    host: str
    port: int
    public_key: str

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Network:
    """A network to connect to.

    ``network_id`` is the ``global_id`` that its states must show, ``None`` when the file does not tell; ``init_block``
    is the key block that trust level 0 starts from; ``zero_state`` is the root hash that servers must name.
    """

    name: str
    network_id: int | None
    servers: tuple[ServerAddress, ...]
    init_block: Any
    zero_state: bytes | None

    def store_key(self) -> str:
        """Under what the newest proved key block of this network is remembered: the block that trust began with."""
        return "" if self.init_block is None else str(self.init_block.root_hash.hex())


def read_global_config(config: dict[str, Any]) -> Network:
    """Parse a ``global.config.json`` (as a dictionary). Raises ``ValueError`` for a malformed one.

    Servers with a key that was listed already are left out: one operator must not count twice in a vote.
    """
    try:
        listed = [_server(entry) for entry in config["liteservers"][:MAX_SERVERS]]
        validator = config.get("validator") or {}
        init_block = _block_id(validator["init_block"]) if validator.get("init_block") else None
        zero = validator.get("zero_state")
        zero_root = str(zero["root_hash"]) if zero else ""
        zero_state = _hash(zero_root) if zero else None
        devnet = config.get("devnet")
        devnet_id = int(devnet["network_id"]) if devnet else None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"not a TON global config: {error!r}") from error
    if not listed:
        raise ValueError("the global config names no liteserver")
    by_key: dict[str, ServerAddress] = {}
    for server in listed:
        by_key.setdefault(server.public_key, server)
    servers = tuple(by_key.values())
    known = ZERO_STATES.get(zero_root)
    if known is not None and devnet_id is not None and known[1] != devnet_id:
        raise ValueError(
            f"the global config contradicts itself: its zero state is {known[0]}'s, yet it calls itself a devnet"
        )
    if known is not None:
        name, network_id = known
        return Network(name, network_id, servers, init_block, zero_state)
    name = "devnet" if devnet else "unknown"
    # A devnet writes zeros for the zero state that it has not got: nothing to compare servers with.
    return Network(name, devnet_id, servers, init_block, zero_state if zero_state and any(zero_state) else None)


def _server(entry: dict[str, Any]) -> ServerAddress:
    key = str(entry["id"]["key"])
    if len(base64.b64decode(key, validate=True)) != 32:
        raise ValueError("a liteserver's key is 32 bytes in base64")
    port = int(entry["port"])
    if not 0 < port < 2**16:
        raise ValueError(f"{port} is no port")
    # Files write the address as a signed 32-bit integer, some as an unsigned one.
    return ServerAddress(str(ipaddress.IPv4Address(int(entry["ip"]) & 0xFFFFFFFF)), port, key)


def _hash(text: str) -> bytes:
    value = base64.b64decode(text, validate=True)
    if len(value) != 32:
        raise ValueError("a hash is 32 bytes in base64")
    return value


def _block_id(entry: dict[str, Any]) -> Any:
    if int(entry["workchain"]) != MASTERCHAIN:
        raise ValueError("the initial block must be of the masterchain")
    return BlockIdExt(
        MASTERCHAIN, FULL_SHARD, int(entry["seqno"]), _hash(entry["root_hash"]), _hash(entry["file_hash"])
    )
