"""A chain of key blocks with validators of its own, and the proofs that a liteserver would show for it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from nacl.signing import SigningKey
from pytoniq_core import HashMap, begin_cell
from pytoniq_core.tl.block import BlockIdExt

from overlay.settlement.chain.blockproof import signed_message
from overlay.settlement.devnet.proofs import keep, merkle_proof, pruned, with_refs

FULL = -(2**63)
NOTHING = pruned(begin_cell().store_uint(1, 8).end_cell())


@dataclass(frozen=True)
class Validators:
    """A validator set: the first ``main`` of ``keys`` sign masterchain blocks."""

    keys: tuple[SigningKey, ...]
    weights: tuple[int, ...]
    main: int

    @classmethod
    def make(cls, seed: int, count: int = 4, main: int = 3) -> Validators:
        keys = tuple(SigningKey(hashlib.sha256(b"%d %d" % (seed, index)).digest()) for index in range(count))
        return cls(keys, tuple(10 for _ in keys), main)

    def cell(self) -> Any:
        """``validators_ext#12``."""
        entries = HashMap(16, value_serializer=lambda source, builder: builder.store_cell(source))
        for index, (key, weight) in enumerate(zip(self.keys, self.weights, strict=True)):
            entry = begin_cell().store_uint(0x53, 8).store_bytes(bytes.fromhex("8e81278a"))
            entries.map[index] = entry.store_bytes(key.verify_key.encode()).store_uint(weight, 64).end_cell()
        builder = begin_cell().store_uint(0x12, 8).store_uint(1, 32).store_uint(2**32 - 1, 32)
        builder.store_uint(len(self.keys), 16).store_uint(self.main, 16).store_uint(sum(self.weights), 64)
        return builder.store_dict(entries.serialize()).end_cell()

    def sign(self, to: Any, signers: list[int] | None = None, *, simplex: bool = False) -> dict[str, Any]:
        """A signature set over ``to`` by these validators (all of the main ones when none are named)."""
        kind = "simplex" if simplex else "ordinary"
        fields: dict[str, Any] = {"@type": f"liteServer.signatureSet.{kind}", "validator_set_hash": 0}
        if simplex:
            named = to.workchain.to_bytes(4, "little", signed=True) + to.shard.to_bytes(8, "little", signed=True)
            named += to.seqno.to_bytes(4, "little") + to.root_hash + to.file_hash
            fields |= {"cc_seqno": 0, "session_id": "5e" * 32, "slot": 7}
            fields["candidate"] = bytes.fromhex("dcbcf9e8") + named + bytes(36)
        else:
            fields["catchain_seqno"] = 0
        message = signed_message(fields, to)
        fields["signatures"] = [
            {
                "node_id_short": hashlib.sha256(bytes.fromhex("c6b41348") + key.verify_key.encode()).hexdigest(),
                "signature": key.sign(message).signature,
            }
            for key in (self.keys[index] for index in (range(self.main) if signers is None else signers))
        ]
        return fields


@dataclass(frozen=True)
class MasterBlock:
    """A masterchain block; with ``validators`` it is a key block that names them."""

    seqno: int
    validators: Validators | None = None
    salt: int = 0
    cell: Any = field(init=False)
    id: Any = field(init=False)

    def __post_init__(self) -> None:
        info = begin_cell().store_uint(0x9BC7A987, 32).store_uint(0, 32).store_uint(2 if self.validators else 0, 8)
        info.store_uint(0, 8).store_uint(self.seqno, 32).store_uint(0, 32)
        info.store_uint(0, 8).store_int(-1, 32).store_uint(0, 64).store_uint(1_700_000_000 + self.salt, 32)
        info.store_uint(1, 64).store_uint(2, 64).store_uint(0, 128)
        info.store_ref(begin_cell().store_uint(0, 64 + 32 + 512).end_cell())
        block = begin_cell().store_uint(0x11EF55AA, 32).store_int(-667, 32).store_ref(info.end_cell())
        cell = block.store_ref(NOTHING).store_ref(NOTHING).store_ref(self._extra()).end_cell()
        object.__setattr__(self, "cell", cell)
        file_hash = hashlib.sha256(cell.hash).digest()
        object.__setattr__(self, "id", BlockIdExt(-1, FULL, self.seqno, cell.get_hash(0), file_hash))

    def _extra(self) -> Any:
        if self.validators is None:
            return NOTHING
        catchain = begin_cell().store_uint(0xC2, 8).store_uint(0, 8).store_uint(250, 32).store_uint(250, 32)
        parameters = HashMap(32, value_serializer=lambda source, builder: builder.store_ref(source))
        parameters.map = {28: catchain.store_uint(1000, 32).store_uint(1, 32).end_cell(), 34: self.validators.cell()}
        return key_block_extra(parameters.serialize())

    def header_proof(self) -> bytes:
        """Its header, for the link that leads to it."""
        return bytes(merkle_proof(keep(self.cell, {0: True, 2: True})).to_boc())

    def config_proof(self) -> bytes:
        """Its configuration, for the link that leads on from it."""
        return bytes(merkle_proof(self.cell).to_boc())


def key_block_extra(config: Any) -> Any:
    """``block_extra`` of a key block with this configuration dictionary."""
    custom = begin_cell().store_bytes(b"\xcc\xa5").store_bit(1).store_bit(0).store_bit(0)
    custom.store_ref(begin_cell().store_uint(0, 3).end_cell()).store_uint(0, 256).store_ref(config)
    with_money = begin_cell().store_bit(0).store_coins(0).store_coins(0).store_bit(0).end_cell()
    without = begin_cell().store_bit(0).store_coins(0).store_bit(0).end_cell()
    extra = begin_cell().store_bytes(b"J3\xf6\xfd").store_ref(with_money).store_ref(without).store_ref(without)
    return extra.store_uint(0, 512).store_bit(1).store_ref(custom.end_cell()).end_cell()


def bomb() -> Any:
    """A block of 40 cells that takes a parser of its configuration four thousand million steps."""
    branch = begin_cell().store_uint(0, 2).store_ref(begin_cell().end_cell()).end_cell()
    for _ in range(32):
        branch = begin_cell().store_uint(0, 2).store_ref(branch).store_ref(branch).end_cell()
    honest = MasterBlock(7, Validators.make(1)).cell
    return with_refs(honest, [*honest.refs[:3], key_block_extra(branch)])


def link(known: MasterBlock, to: Any, dest_proof: bytes, signatures: dict[str, Any], *, key: bool) -> dict[str, Any]:
    """``liteServer.blockLinkForward``."""
    return {
        "@type": "liteServer.blockLinkForward", "to_key_block": key, "from": known.id.to_dict(), "to": to.to_dict(),
        "dest_proof": dest_proof, "config_proof": known.config_proof(), "signatures": signatures,
    }  # fmt: skip


def proof(blocks: list[MasterBlock], *, simplex: bool = False) -> dict[str, Any]:
    """``liteServer.partialBlockProof`` along these blocks, all but the last of them key blocks."""
    steps = []
    for known, to in pairwise(blocks):
        assert known.validators is not None
        signatures = known.validators.sign(to.id, simplex=simplex)
        steps.append(link(known, to.id, to.header_proof(), signatures, key=to.validators is not None))
    return {"complete": True, "from": blocks[0].id.to_dict(), "to": blocks[-1].id.to_dict(), "steps": steps}


def block_id(fields: dict[str, Any]) -> Any:
    """The block id of a TL object's fields."""
    return BlockIdExt.from_dict(fields)
