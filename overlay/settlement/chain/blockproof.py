"""Trust level 0: a masterchain block is believed because the validators of a trusted key block signed it.

``liteServer.getBlockProof`` answers with links, each from a block that is trusted already to a later one. A forward
link shows the configuration inside the trusted key block (a Merkle proof), which names the validators, and their
signatures over the later block. Every link leads to another key block, whose validators sign the next, until the block
that was asked for (validator/impl/proof.cpp and lite-client's ``check_block_proof`` are what this follows).

Two holes of pytoniq 0.1.43's ``raw_get_mc_block_proof`` are closed here: it never checks that the configuration belongs
to the trusted block, so that any server can bring validators of its own, and it counts a validator's signature as often
as it is repeated. Only forward links are taken: from a key block an honest server sends no others.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError
from pytoniq_core import Cell
from pytoniq_core.proof.check_proof import check_block_header_proof, check_proof
from pytoniq_core.tl.block import BlockIdExt
from pytoniq_core.tlb.block import Block
from pytoniq_core.tlb.config import ConfigParam34

from overlay.settlement.chain.limits import MAX_PROOF_STEPS
from overlay.settlement.chain.network import FULL_SHARD, MASTERCHAIN
from overlay.settlement.errors import ProofRejected

_KEY_ID = bytes.fromhex("c6b41348")
"""``pub.ed25519``: a validator is named by the SHA-256 of this and its key."""

_BLOCK_ID = (0xC50B6E70).to_bytes(4, "little")
"""``ton.blockId root_cell_hash:int256 file_hash:int256``: what catchain validators sign."""

_DATA_TO_SIGN = (0xA8E33DF8).to_bytes(4, "little")
_FINALIZE_VOTE = (0x40A7E105).to_bytes(4, "little")
_CANDIDATE_ID = (0xB691CD3F).to_bytes(4, "little")
"""``consensus.dataToSign``, ``consensus.simplex.finalizeVote``, ``consensus.candidateId``: what Simplex signs."""

_MAX_VALIDATORS = 1024
"""Mainnet has about 400, of which about 100 sign masterchain blocks."""


@dataclass(frozen=True)
class ProvedChain:
    """Where a proof led: ``last`` is trusted now, ``key_block`` is the newest key block on the way to it."""

    last: Any
    key_block: Any


def check_block_proof(answer: dict[str, Any], known: Any, target: Any) -> ProvedChain:
    """Check a ``liteServer.partialBlockProof`` from the trusted key block ``known`` towards ``target``.

    Returns how far it leads, which may be short of ``target``: ask on from there. Raises :class:`ProofRejected` when
    anything does not fit, also when the answer leads nowhere.
    """
    try:
        return _check(answer, known, target)
    except ProofRejected:
        raise
    except Exception as error:  # pytoniq_core raises several unrelated types on malformed cells
        raise ProofRejected(f"a liteserver's block proof is malformed: {error!r}") from error


def _check(answer: dict[str, Any], known: Any, target: Any) -> ProvedChain:
    steps = answer["steps"]
    if not 1 <= len(steps) <= MAX_PROOF_STEPS:
        raise ProofRejected(f"a block proof of {len(steps)} links")
    last, key_block = known, known
    for step in steps:
        if last != key_block:
            raise ProofRejected("a block proof goes on from a block that is no key block")
        if BlockIdExt.from_dict(step["from"]) != last:
            raise ProofRejected("a link of a block proof does not start where the one before it ended")
        to = BlockIdExt.from_dict(step["to"])
        is_key = _check_link(step, last, to)
        last = to
        if is_key:
            key_block = to
    if last.seqno > target.seqno or (last.seqno == target.seqno and last != target):
        raise ProofRejected("a block proof leads to another block than the one asked for")
    if last != target and last != key_block:
        raise ProofRejected("a block proof stops at a block from which nothing follows")
    return ProvedChain(last, key_block)


def _check_link(step: dict[str, Any], known: Any, to: Any) -> bool:
    """Check one forward link; returns whether it leads to a key block."""
    if "config_proof" not in step:
        raise ProofRejected("a block proof goes backwards: trust must begin with a key block that is older")
    if (to.workchain, to.shard) != (MASTERCHAIN, FULL_SHARD) or to.seqno <= known.seqno:
        raise ProofRejected("a link of a block proof does not lead forward in the masterchain")
    config_proof = Cell.one_from_boc(step["config_proof"])
    # The hole in pytoniq: without this, the validators below are anybody's.
    check_proof(config_proof, known.root_hash)
    key_block = Block.deserialize(config_proof[0].begin_parse())
    if not key_block.info.key_block or key_block.info.seqno != known.seqno:
        raise ProofRejected("the configuration of a block proof is not that of a key block")
    header_proof = Cell.one_from_boc(step["dest_proof"])
    check_proof(header_proof, to.root_hash)
    check_block_header_proof(header_proof[0], to.root_hash)
    header = Block.deserialize(header_proof[0].begin_parse()).info
    if header.seqno != to.seqno or header.shard.workchain_id != MASTERCHAIN or header.not_master:
        raise ProofRejected("a link of a block proof names another block than its header shows")
    if bool(header.key_block) != bool(step["to_key_block"]):
        raise ProofRejected("a link of a block proof is mistaken about a key block")
    _check_signatures(_validators(key_block), step["signatures"], to)
    return bool(header.key_block)


def _validators(key_block: Any) -> dict[bytes, tuple[bytes, int]]:
    """Short id -> (key, weight) of the validators that sign masterchain blocks after this key block.

    They are the first ``main`` of configuration parameter 35 (a temporary set), else 34. The shuffle that
    ``shuffle_mc_validators`` asks for changes their order only, which no weight depends on.
    """
    parameters = key_block.extra.custom.config.config
    current = parameters[35] if 35 in parameters else parameters[34]
    chosen = ConfigParam34.deserialize(current).cur_validators
    if not 1 <= chosen.main <= chosen.total <= _MAX_VALIDATORS:
        raise ProofRejected(f"a validator set of {chosen.total}")
    found: dict[bytes, tuple[bytes, int]] = {}
    for index in range(chosen.main):
        entry = chosen.list[index]
        key = bytes(entry.public_key.pubkey)
        if len(key) != 32 or entry.weight <= 0:
            raise ProofRejected("a validator without a key or without weight")
        found[hashlib.sha256(_KEY_ID + key).digest()] = (key, entry.weight)
    return found


def _check_signatures(validators: dict[bytes, tuple[bytes, int]], signatures: dict[str, Any], to: Any) -> None:
    message = signed_message(signatures, to)
    total = sum(weight for _, weight in validators.values())
    signed, seen = 0, set()
    for entry in signatures["signatures"]:
        node = bytes.fromhex(entry["node_id_short"])
        if node in seen:
            raise ProofRejected("a validator's signature is counted twice")
        seen.add(node)
        if node not in validators:
            raise ProofRejected("a block proof is signed by somebody who is no validator")
        key, weight = validators[node]
        try:
            crypto_sign_open(bytes(entry["signature"]) + message, key)
        except (BadSignatureError, ValueError) as error:
            raise ProofRejected("a validator's signature does not match the block") from error
        signed += weight
    if signed * 3 <= total * 2:
        raise ProofRejected(f"validators with {signed} of {total} weight signed the block: more than two thirds must")


def signed_message(signatures: dict[str, Any], to: Any) -> bytes:
    """What validators sign to make the block ``to`` final, in the consensus that the signature set is of.

    Catchain signs the block's two hashes. Simplex signs a vote for a candidate, whose serialized description names the
    block (``consensus.candidateHashData``: constructor, then ``tonNode.blockIdExt``).
    """
    if "candidate" not in signatures:
        ordinary: bytes = _BLOCK_ID + to.root_hash + to.file_hash
        return ordinary
    candidate = bytes(signatures["candidate"])
    named = (
        to.workchain.to_bytes(4, "little", signed=True) + to.shard.to_bytes(8, "little", signed=True)
        + to.seqno.to_bytes(4, "little") + bytes(to.root_hash) + bytes(to.file_hash)
    )  # fmt: skip
    if candidate[4 : 4 + len(named)] != named:
        raise ProofRejected("the candidate that was voted for is another block")
    vote = _FINALIZE_VOTE + _CANDIDATE_ID + signatures["slot"].to_bytes(4, "little", signed=True)
    vote += hashlib.sha256(candidate).digest()
    # TL ``bytes``: one byte of length, the data, padding to four.
    boxed = bytes((len(vote),)) + vote
    session = bytes.fromhex(signatures["session_id"])
    return bytes(_DATA_TO_SIGN + session + boxed + bytes(-len(boxed) % 4))
