"""What a liteserver proves about blocks: headers, shards, configuration, accounts, transactions, and the way from one
masterchain block to another that trust level 0 goes.
"""

from __future__ import annotations

from typing import Any

from overlay.settlement.devnet import accounts, hashmap
from overlay.settlement.devnet.blocks import BASECHAIN, EARLIER_BLOCKS, MASTERCHAIN, SealedBlock, States
from overlay.settlement.devnet.chain import Chain
from overlay.settlement.devnet.limits import MAX_PROOF_STEPS
from overlay.settlement.devnet.proofs import keep, merkle_proof, pruned, to_boc, with_refs
from overlay.settlement.devnet.validators import ValidatorSet

_HEADER = {0: True, 2: True}
"""The parts of a block that its header proof shows: its info and the hashes of its state update."""

_SHARD_DESCRIPTION = {0: True, 3: {3: {0: True}}}
"""The parts of a masterchain block that show its shards."""

_CONFIGURATION = {0: True, 3: {3: {0: True, 2: True}}}
"""The parts of a key block that show the configuration it announces."""


class StateNotKept(Exception):
    """A proof needs a state that this process does not hold (any more)."""


def header_proof(block: SealedBlock, workchain: int) -> Any:
    """A Merkle proof of the block's header and state hashes."""
    return merkle_proof(keep(block.block(workchain)[1], _HEADER))


def shard_proof(block: SealedBlock) -> bytes:
    """That the masterchain block commits to the shard block: header proof, then state proof."""
    state = keep(_states(block).master, {1: True, 2: True, 3: {0: True, 2: {}}})
    return to_boc([header_proof(block, MASTERCHAIN), merkle_proof(state)])


def shard_description(block: SealedBlock) -> Any:
    """A Merkle proof of the shards in the masterchain block itself: needs no state."""
    return merkle_proof(keep(block.master_block, _SHARD_DESCRIPTION))


def config_proof(block: SealedBlock) -> Any:
    """The configuration inside the masterchain state."""
    return merkle_proof(keep(_states(block).master, {2: True, 3: {0: True, 1: True, 2: {}}}))


def account_proof(block: SealedBlock, key: int) -> bytes:
    """That an account (its 256-bit address) is in the shard state, or that it is not."""
    states = _states(block)
    dictionary = states.shard.refs[1]
    if states.accounts is not None:
        dictionary = with_refs(dictionary, [accounts.prove(states.accounts, key)])
    state = with_refs(states.shard, [pruned(states.shard.refs[0]), dictionary, states.shard.refs[2]])
    return to_boc([header_proof(block, BASECHAIN), merkle_proof(state)])


def transactions_proof(block: SealedBlock, workchain: int, account: int | None) -> Any:
    """The hashes of the transactions in a block, of one account or of all. ``account`` is a 256-bit address."""
    cell = block.block(workchain)[1]
    extra = cell.refs[3]
    listed = extra.refs[2]
    if listed.refs:
        listed = with_refs(listed, [hashmap.prove(listed.refs[0], 256, account, _account_block)])
    extra = with_refs(extra, [pruned(extra.refs[0]), pruned(extra.refs[1]), listed, *map(pruned, extra.refs[3:])])
    return merkle_proof(with_refs(cell, [cell.refs[0], pruned(cell.refs[1]), pruned(cell.refs[2]), extra]))


def _account_block(leaf: Any) -> Any:
    """An ``AccountBlock`` with its transactions pruned. Their dictionary stands inline, the state update is last."""
    return with_refs(leaf, [*_transactions(leaf.refs[:-1]), leaf.refs[-1]])


def _transactions(refs: list[Any]) -> list[Any]:
    if len(refs) == 1:  # a leaf: the transaction
        return [pruned(refs[0])]
    return [with_refs(ref, _transactions(ref.refs)) for ref in refs]


def _states(block: SealedBlock) -> States:
    if block.states is None:
        raise StateNotKept
    return block.states


# ---- from one masterchain block to another ----


def block_links(chain: Chain, known: SealedBlock, target: SealedBlock) -> tuple[SealedBlock, list[dict[str, Any]]]:
    """Links from ``known`` towards ``target`` (``liteServer.BlockLink``), and where they end.

    Forwards, validators announced by a key block sign the next key block or the target. Backwards, a state names
    earlier blocks and the last key block; older key blocks are reached one by one. At most ``MAX_PROOF_STEPS``; the
    client asks on from where they end.
    """
    at, steps = known, list[dict[str, Any]]()
    while at.seqno != target.seqno and len(steps) < MAX_PROOF_STEPS:
        at, step = _link(chain, at, target)
        steps.append(step)
    return at, steps


def _link(chain: Chain, at: SealedBlock, target: SealedBlock) -> tuple[SealedBlock, dict[str, Any]]:
    is_last_key = at.last_key is not None and at.last_key.seqno == target.seqno
    if target.seqno < at.seqno and at.states is not None and (is_last_key or not target.is_key):
        return target, _back(at, target, _earlier(at, target.seqno))
    if target.seqno > at.seqno and at.is_key:
        following = chain.next_key_block(at.seqno)
        to = target if following is None or following.seqno >= target.seqno else following
        return to, forward_link(at, to, chain.signers(to))
    key = None if at.last_key is None else chain.at(at.last_key.seqno)
    if key is None:
        raise StateNotKept
    return key, _back(at, key, at.key_link)


def forward_link(known: SealedBlock, to: SealedBlock, signers: ValidatorSet) -> dict[str, Any]:
    """``liteServer.blockLinkForward`` from a key block."""
    signatures = signers.sign(to.master.root_hash, to.master.file_hash)
    return {
        "@type": "liteServer.blockLinkForward", "to_key_block": to.is_key, "from": known.master.to_tl(),
        "to": to.master.to_tl(), "dest_proof": header_proof(to, MASTERCHAIN).to_boc(),
        "config_proof": to_boc([merkle_proof(keep(known.master_block, _CONFIGURATION))]),
        "signatures": {
            "@type": "liteServer.signatureSet.ordinary", "validator_set_hash": 0, "catchain_seqno": to.epoch,
            "signatures": signatures,
        },
    }  # fmt: skip


def _back(known: SealedBlock, to: SealedBlock, state_proof: bytes) -> dict[str, Any]:
    """``liteServer.blockLinkBack``."""
    return {
        "@type": "liteServer.blockLinkBack", "to_key_block": to.is_key, "from": known.master.to_tl(),
        "to": to.master.to_tl(), "dest_proof": header_proof(to, MASTERCHAIN).to_boc(),
        "proof": header_proof(known, MASTERCHAIN).to_boc(), "state_proof": state_proof,
    }  # fmt: skip


def _earlier(at: SealedBlock, seqno: int) -> bytes:
    """A proof of the masterchain state's entry for an earlier block."""
    state = _states(at).master
    custom = state.refs[3]
    tail = custom.refs[2]
    shown = with_refs(tail, [hashmap.prove(tail.refs[0], EARLIER_BLOCKS.key_bits, seqno, lambda leaf: leaf)])
    custom = with_refs(custom, [custom.refs[0], pruned(custom.refs[1]), shown])
    return to_boc(
        [merkle_proof(with_refs(state, [pruned(state.refs[0]), pruned(state.refs[1]), state.refs[2], custom]))]
    )
