"""How a liteserver lies: blocks of its own, and honest answers bent on their way out. Used by tests of clients."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from overlay.settlement.devnet import accounts
from overlay.settlement.devnet.block_proofs import account_proof, forward_link
from overlay.settlement.devnet.blocks import Header, SealedBlock, Work, make_block
from overlay.settlement.devnet.chain import Chain
from overlay.settlement.devnet.config import with_validators
from overlay.settlement.devnet.trouble import Lie
from overlay.settlement.devnet.validators import ValidatorSet


class ForgedChain:
    """Twins of the chain's newest blocks in which some accounts are as the liar likes.

    A twin has the number and times of the real block, a state and proofs that hold, and another hash.
    """

    def __init__(self, chain: Chain, forged_accounts: Mapping[str, int | None]) -> None:
        self._chain = chain
        self._accounts = dict(forged_accounts)
        self._validators = ValidatorSet(hashlib.sha256(b"validators of a liar").digest(), 0, 0)
        self._twins: dict[bytes, SealedBlock] = {}
        self._last: SealedBlock | None = None

    @property
    def last(self) -> SealedBlock:
        """The twin of the chain's newest block."""
        real = self._chain.last
        if self._last is None or self._last.seqno != real.seqno:
            self._last = self._twin(real)
            self._twins[self._last.master.root_hash] = self._twins[self._last.shard.root_hash] = self._last
        return self._last

    def find(self, root_hash: bytes) -> SealedBlock | None:
        """A twin of this root hash."""
        return self._twins.get(root_hash)

    def link(self, known: SealedBlock, to: SealedBlock) -> dict[str, Any]:
        """A forward link "from" a block that the client trusts, over a key block that the liar made up."""
        forged_key = self._key_block(known)
        step = forward_link(forged_key, to, self._validators)
        return step | {"from": known.master.to_tl()}

    def _key_block(self, known: SealedBlock) -> SealedBlock:
        config = with_validators(self._chain.config, self._validators)
        header = Header(self._chain.network_id, known.seqno, known.utime, known.start_lt, known.end_lt, 0, True)
        return make_block(None, header, accounts=None, earlier=None, work=Work(), config=config)

    def _twin(self, real: SealedBlock) -> SealedBlock:
        assert real.states is not None
        tree = real.states.accounts
        for address, balance in sorted(self._accounts.items()):
            key = accounts.key_of(address)
            if balance is None:
                tree = accounts.remove(tree, key)
            else:
                tree = accounts.put(tree, key, accounts.uninit_account(address, balance, real.utime), balance)
        header = Header(self._chain.network_id, real.seqno, real.utime, real.start_lt, real.end_lt, 0, False)
        previous = self._last or self._chain.at(real.seqno - 1)
        return make_block(
            previous, header, accounts=tree, earlier=real.states.earlier_blocks, work=Work(), config=self._chain.config
        )


def bend(lies: frozenset[Lie], kind: str, values: dict[str, Any], block: SealedBlock | None) -> dict[str, Any]:
    """An honest answer as the liar sends it. ``block`` is the one that an ``accountState`` is about."""
    if kind == "accountState" and block is not None:
        if Lie.WRONG_STATE in lies and values["state"]:
            rich = accounts.uninit_account("0:" + "77" * 32, 10**18, block.utime)
            values = values | {"state": rich.refs[0].to_boc()}
        if Lie.FORGED_ABSENCE in lies and values["state"]:
            values = values | {"state": b"", "proof": account_proof(block, _nobody(block))}
        if Lie.BROKEN_PROOF in lies:
            values = values | {"proof": _flip(values["proof"])}
    if kind == "partialBlockProof" and Lie.WRONG_SIGNATURES in lies:
        values = values | {"steps": [_unsigned(step) for step in values["steps"]]}
    return values


def _nobody(block: SealedBlock) -> int:
    """A key that is not in the block's state."""
    assert block.states is not None
    key = 0
    while accounts.state_in(block.states.accounts, key) is not None:
        key += 1
    return key


def _flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes((data[middle] ^ 1,)) + data[middle + 1 :]


def _unsigned(step: dict[str, Any]) -> dict[str, Any]:
    signed = step.get("signatures")
    if signed is None:
        return step
    forged = [each | {"signature": each["signature"][32:] + each["signature"][:32]} for each in signed["signatures"]]
    return step | {"signatures": signed | {"signatures": forged}}


def garbage(request: bytes) -> bytes:
    """An answer that is none, the same for the same request."""
    return hashlib.shake_256(request).digest(90)
