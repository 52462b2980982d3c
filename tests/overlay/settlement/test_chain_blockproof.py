"""Trust level 0: only blocks that the validators of a trusted key block signed are believed."""

from __future__ import annotations

import base64
import copy
from pathlib import Path
from typing import Any

import pytest
import trio
from pytoniq import LiteClient

from overlay.settlement import ChainUnavailable, ProofRejected
from overlay.settlement.chain import TonClient
from overlay.settlement.chain.blockproof import check_block_proof
from overlay.settlement.chain.blockstore import FileBlockStore
from overlay.settlement.devnet.adnl import SCHEMAS
from tests.overlay.settlement.faulty_server import (
    FaultyServer,
    Question,
    Spoil,
    answer,
    error,
    faulty_servers,
    with_servers,
)
from tests.overlay.settlement.validators import MasterBlock, Validators, block_id, link, proof

OURS, NEXT, THEIRS = Validators.make(1), Validators.make(2), Validators.make(9)
ANCHOR = MasterBlock(100, OURS)
ROTATION = MasterBlock(200, NEXT)
TARGET = MasterBlock(250)


@pytest.mark.parametrize("simplex", [False, True])
def test_a_chain_of_signed_key_blocks_leads_to_the_target(simplex: bool) -> None:
    proved = check_block_proof(proof([ANCHOR, ROTATION, TARGET], simplex=simplex), ANCHOR.id, TARGET.id)
    assert (proved.last, proved.key_block) == (TARGET.id, ROTATION.id)


def test_a_proof_may_stop_at_a_key_block_on_the_way() -> None:
    proved = check_block_proof(proof([ANCHOR, ROTATION]), ANCHOR.id, TARGET.id)
    assert (proved.last, proved.key_block) == (ROTATION.id, ROTATION.id)


def forged_chain() -> dict[str, Any]:
    """A chain with validators of the forger's own, said to start at our trusted block."""
    forged = proof([MasterBlock(100, THEIRS), TARGET])
    forged["steps"][0]["from"] = ANCHOR.id.to_dict()
    return forged


def test_validators_that_the_trusted_block_does_not_name_are_rejected() -> None:
    with pytest.raises(ProofRejected):
        check_block_proof(forged_chain(), ANCHOR.id, TARGET.id)


async def test_pytoniq_itself_accepts_that_forgery_which_is_why_this_code_exists() -> None:
    """When this fails, pytoniq has mended it: see whether its own check can be used."""

    class Fooled(LiteClient):  # type: ignore[misc]
        async def liteserver_request(self, tl_schema_name: str, data: dict[str, Any]) -> dict[str, Any]:
            return forged_chain()

    key = base64.b64encode(OURS.keys[0].verify_key.encode()).decode()
    fooled = Fooled("127.0.0.1", 1, key, trust_level=0, init_key_block=ANCHOR.id)
    complete, last, _, _ = await fooled.raw_get_mc_block_proof(ANCHOR.id, TARGET.id)
    assert complete
    assert last == TARGET.id


def signed_by(signers: list[int], **options: bool) -> dict[str, Any]:
    signatures = OURS.sign(TARGET.id, signers, **options)
    return {"steps": [link(ANCHOR, TARGET.id, TARGET.header_proof(), signatures, key=False)]}


def test_more_than_two_thirds_of_the_weight_must_sign() -> None:
    with pytest.raises(ProofRejected, match="20 of 30 weight"):
        check_block_proof(signed_by([0, 1]), ANCHOR.id, TARGET.id)
    assert check_block_proof(signed_by([0, 1, 2]), ANCHOR.id, TARGET.id).last == TARGET.id


def test_a_validator_that_signs_twice_counts_once() -> None:
    with pytest.raises(ProofRejected, match="twice"):
        check_block_proof(signed_by([0, 0, 0]), ANCHOR.id, TARGET.id)


def test_a_validator_beyond_the_main_ones_has_no_say_in_the_masterchain() -> None:
    with pytest.raises(ProofRejected, match="no validator"):
        check_block_proof(signed_by([0, 1, 3]), ANCHOR.id, TARGET.id)


def test_signatures_over_another_block_are_rejected() -> None:
    other = MasterBlock(250, salt=1)
    steps = [link(ANCHOR, TARGET.id, TARGET.header_proof(), OURS.sign(other.id), key=False)]
    with pytest.raises(ProofRejected, match="signature does not match"):
        check_block_proof({"steps": steps}, ANCHOR.id, TARGET.id)
    steps = [link(ANCHOR, TARGET.id, TARGET.header_proof(), OURS.sign(other.id, simplex=True), key=False)]
    with pytest.raises(ProofRejected, match="another block"):
        check_block_proof({"steps": steps}, ANCHOR.id, TARGET.id)


def changed(**fields: Any) -> dict[str, Any]:
    answer = proof([ANCHOR, TARGET])
    answer["steps"][0] |= fields
    return answer


@pytest.mark.parametrize(
    "lie",
    [
        {"steps": []},
        {"steps": proof([ANCHOR, TARGET])["steps"] * 65},
        changed(to_key_block=True),
        changed(**{"from": ROTATION.id.to_dict()}),
        changed(to=MasterBlock(250, salt=1).id.to_dict()),
        changed(to=MasterBlock(90).id.to_dict()),
        changed(dest_proof=ROTATION.header_proof()),
        changed(config_proof=TARGET.header_proof()),
        changed(config_proof=ANCHOR.header_proof()),
        changed(config_proof=b""),
        changed(signatures={"signatures": []}),
        proof([ANCHOR, MasterBlock(300)]),
        proof([ANCHOR, MasterBlock(240)]),
        proof([ANCHOR, MasterBlock(250, salt=1)]),
        {"steps": proof([ANCHOR, TARGET])["steps"] + proof([ROTATION, MasterBlock(260)])["steps"]},
    ],
)
def test_a_lie_in_any_part_of_a_proof_is_rejected(lie: dict[str, Any]) -> None:
    with pytest.raises(ProofRejected):
        check_block_proof(lie, ANCHOR.id, TARGET.id)


def test_a_link_backwards_is_refused() -> None:
    back = changed()
    del back["steps"][0]["config_proof"]
    with pytest.raises(ProofRejected, match="backwards"):
        check_block_proof(back, ANCHOR.id, TARGET.id)


@pytest.mark.parametrize("part", ["config_proof", "dest_proof"])
def test_a_proof_with_any_byte_changed_proves_nothing_else(part: str) -> None:
    honest = proof([ANCHOR, TARGET])
    data = honest["steps"][0][part]
    for index in range(0, len(data), 7):
        bent = copy.deepcopy(honest)
        bent["steps"][0][part] = data[:index] + bytes((data[index] ^ 1,)) + data[index + 1 :]
        try:
            proved = check_block_proof(bent, ANCHOR.id, TARGET.id)
        except ProofRejected:
            continue
        assert proved.last == TARGET.id  # a bit of the BoC's own framing that carries no meaning


# ---- against a real server ----


def prover(anchor: MasterBlock, validators: Validators, known_blocks: list[Any] | None = None) -> Spoil:
    """An honest server, or with other ``validators`` a forger, that proves the devnet's blocks from ``anchor``."""

    async def spoil(question: Question) -> bytes | None:
        if question.name != "getBlockProof":
            return await question.honest()
        if known_blocks is not None:
            known_blocks.append(block_id(question.fields["known_block"]))
        to = block_id(question.fields["target_block"])
        request = SCHEMAS.serialize("liteServer.getBlockHeader", {"id": to.to_dict(), "mode": 0})
        header = SCHEMAS.deserialize(await question._upstream.ask(request))[0]["header_proof"]
        steps = []
        if block_id(question.fields["known_block"]) == ANCHOR.id and anchor is not ANCHOR:
            assert ANCHOR.validators is not None
            first = ANCHOR.validators.sign(anchor.id)
            steps.append(link(ANCHOR, anchor.id, anchor.header_proof(), first, key=True))
        steps.append(link(anchor, to, header, validators.sign(to), key=False))
        steps[0]["from"] = question.fields["known_block"]
        fields = {"complete": True, "from": question.fields["known_block"], "to": to.to_dict(), "steps": steps}
        return answer("partialBlockProof", fields)

    return spoil


def anchored(config: dict[str, Any], servers: list[FaultyServer], anchor: MasterBlock) -> dict[str, Any]:
    changed = with_servers(config, servers)
    changed["validator"]["init_block"] = {
        "workchain": -1, "shard": -(2**63), "seqno": anchor.seqno,
        "root_hash": base64.b64encode(anchor.id.root_hash).decode(),
        "file_hash": base64.b64encode(anchor.id.file_hash).decode(),
    }  # fmt: skip
    return changed


GENESIS = MasterBlock(0, OURS)


async def test_at_trust_level_0_a_forger_gets_nowhere_and_two_forgers_cannot_outvote_one_honest_server(
    net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("overlay.settlement.chain.heads.RECONNECT_BACKOFF_S", (0.01,))
    async with faulty_servers(net.config, 3) as servers:
        config = anchored(net.config, servers, GENESIS)
        for server in servers:
            server.spoil = prover(MasterBlock(0, THEIRS), THEIRS)
        with pytest.raises(ProofRejected):
            async with TonClient.connect(config, clock=net.clock, trust_level=0):
                pass
        servers[1].spoil = prover(GENESIS, OURS)
        async with TonClient.connect(config, clock=net.clock, trust_level=0) as client:
            state = await client.account_state(net.devnet.giver)
            assert state is not None
            assert state.balance_nanoton > 10**18
            assert await client.account_state("0:" + "5a" * 32) is None


async def test_the_newest_key_block_is_remembered_in_the_given_file_and_nowhere_else(
    net: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    rotation = MasterBlock(1, NEXT)
    start = MasterBlock(0, OURS)
    monkeypatch.setattr(__name__ + ".ANCHOR", start)
    asked: list[Any] = []
    for _ in range(3):
        await net.call(net.devnet.seal)
    async with faulty_servers(net.config, 1) as servers:
        servers[0].spoil = prover(rotation, NEXT, asked)
        config = anchored(net.config, servers, start)
        for _ in range(2):
            blocks = FileBlockStore(tmp_path / "trusted-block.json")
            async with TonClient.connect(config, clock=net.clock, trust_level=0, blocks=blocks) as client:
                assert await client.account_state(net.devnet.giver) is not None
    assert asked[0] == start.id
    assert set(asked[1:]) == {rotation.id}
    assert list((tmp_path / "cwd").iterdir()) == []


async def test_a_block_that_took_long_to_prove_is_not_taken_for_the_newest(
    net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("overlay.settlement.chain.heads.PROOF_TOOK_LONG_S", 0.3)
    honest, address, proofs = prover(GENESIS, OURS), "0:" + net.fresh_seed().hex(), []

    async def slow_at_first(question: Question) -> bytes | None:
        if question.name == "getBlockProof":
            proofs.append(question)
            if len(proofs) == 2:
                await net.call(net.devnet.fund, address, 7)
                await trio.sleep(0.4)
        return await honest(question)

    async with faulty_servers(net.config, 1) as servers:
        servers[0].spoil = slow_at_first
        config = anchored(net.config, servers, GENESIS)
        async with TonClient.connect(config, clock=net.clock, trust_level=0) as client:
            await net.call(net.devnet.seal)
            state = await client.account_state(address)
    assert state is not None
    assert state.balance_nanoton == 7


@pytest.mark.parametrize("text", ["", "{", "[]", '{"aa": 1}', '{"aa": [1, "x", "y"]}', '{"aa": [1]}'])
def test_a_damaged_memory_of_key_blocks_is_an_empty_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trusted-block.json"
    path.write_text(text)
    store = FileBlockStore(path)
    assert store.load("aa") is None
    store.save("aa", ANCHOR.id)
    assert FileBlockStore(path).load("aa") == ANCHOR.id
    assert path.stat().st_mode & 0o077 == 0


async def test_a_server_that_proves_nothing_is_a_clear_error_at_trust_level_0(
    net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def proves_nothing(question: Question) -> bytes | None:
        return error(651, "no such block") if question.name == "getBlockProof" else await question.honest()

    monkeypatch.setattr("overlay.settlement.chain.heads.RECONNECT_BACKOFF_S", (0.01,))
    async with faulty_servers(net.config, 1) as servers:
        servers[0].spoil = proves_nothing
        with pytest.raises(ChainUnavailable, match=r"no liteserver proves its newest block: no such block"):
            async with TonClient.connect(anchored(net.config, servers, GENESIS), clock=net.clock, trust_level=0):
                pass


async def test_trust_level_0_without_a_block_to_start_from_is_refused(net: Any) -> None:
    config = net.config
    del config["validator"]["init_block"]
    with pytest.raises(ValueError, match="init_block"):
        async with TonClient.connect(config, clock=net.clock, trust_level=0):
            pass
