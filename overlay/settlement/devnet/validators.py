"""The devnet's validators: the set that a key block announces, and their signatures under masterchain blocks.

They are not a consensus: one process holds all the keys. What they give is what clients check at trust level 0.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nacl.signing import SigningKey
from pytoniq_core import Builder, HashMap, begin_cell

from overlay.settlement.devnet.limits import VALIDATOR_COUNT, VALIDATORS_VALID_S

_BLOCK_ID_MAGIC = bytes.fromhex("706e0bc5")
"""TL ``ton.blockId root_cell_hash:int256 file_hash:int256``, little-endian: what validators sign."""

_PUBLIC_KEY_MAGIC = bytes.fromhex("c6b41348")
"""TL ``pub.ed25519 key:int256``: its SHA-256 with the key is the short node id."""


@dataclass(frozen=True)
class ValidatorSet:
    """``VALIDATOR_COUNT`` validators of equal weight, whose keys follow from ``seed`` (32 bytes) and ``epoch``.

    ``since`` is the Unix time from which it is in office. Epochs count the sets of one chain.
    """

    seed: bytes
    epoch: int
    since: int

    @cached_property
    def keys(self) -> tuple[SigningKey, ...]:
        """The signing keys, in the order of the set."""
        material = b"cocoon devnet validator" + self.seed + self.epoch.to_bytes(8, "big")
        return tuple(
            SigningKey(hashlib.sha256(material + index.to_bytes(2, "big")).digest()) for index in range(VALIDATOR_COUNT)
        )

    def cell(self) -> Any:
        """``validators_ext#12``: configuration parameter 34."""

        def store(value: Any, builder: Builder) -> Builder:
            return builder.store_cell(value)

        listed = HashMap(16, value_serializer=store)
        listed.map = {
            # validator#53 public_key:(ed25519_pubkey#8e81278a pubkey:bits256) weight:uint64
            index: begin_cell().store_uint(0x53, 8).store_uint(0x8E81278A, 32)
            .store_bytes(key.verify_key.encode()).store_uint(1, 64).end_cell()
            for index, key in enumerate(self.keys)
        }  # fmt: skip
        builder = begin_cell().store_uint(0x12, 8).store_uint(self.since, 32)
        builder.store_uint(min(self.since + VALIDATORS_VALID_S, 2**32 - 1), 32)
        builder.store_uint(VALIDATOR_COUNT, 16).store_uint(VALIDATOR_COUNT, 16).store_uint(VALIDATOR_COUNT, 64)
        return builder.store_dict(listed.serialize()).end_cell()

    def sign(self, root_hash: bytes, file_hash: bytes) -> list[dict[str, Any]]:
        """Every validator's ``liteServer.signature`` under a block."""
        message = _BLOCK_ID_MAGIC + root_hash + file_hash
        return [
            {"node_id_short": short_id(key.verify_key.encode()), "signature": key.sign(message).signature}
            for key in self.keys
        ]


def short_id(public_key: bytes) -> str:
    """The short node id of an Ed25519 key, in hexadecimal."""
    return hashlib.sha256(_PUBLIC_KEY_MAGIC + public_key).hexdigest()


def catchain_config(validator_count: int) -> Any:
    """``catchain_config_new#c2``: configuration parameter 28, without shuffling, which pytoniq does not know."""
    config = begin_cell().store_uint(0xC2, 8).store_uint(0, 8).store_uint(250, 32).store_uint(250, 32)
    return config.store_uint(1000, 32).store_uint(validator_count, 32).end_cell()
