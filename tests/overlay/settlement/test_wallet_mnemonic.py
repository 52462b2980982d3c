"""TON's 24 words: the same words, keys and addresses as TON's own wallets have."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
from functools import cache
from typing import Any

import pytest
import trio

from overlay.settlement import Wallet, check_mnemonic, mnemonic_problem, new_mnemonic, wallet_address_of_key
from overlay.settlement.devnet.tvm import node_modules, node_program
from overlay.settlement.mnemonic import mnemonic_seed, needs_password

PUBLIC_KEY = bytes.fromhex("5754865e86d0ade1199301bbb0319a25ed6b129c4b0a57f28f62449b3df9c522")
"""The key that TON's libraries test their wallets with."""

WORDS = (  # noqa: SIM905 — a list of 24 strings takes a page
    "hospital stove relief fringe tongue always charge angry urge sentence again match nerve inquiry senior coconut "
    "label tumble carry category beauty bean road solution"
).split()
"""A test vector of @ton/crypto."""

ORACLE = """
const { beginCell, Cell, contractAddress } = require('@ton/core');
const { mnemonicToPrivateKey, mnemonicValidate } = require('@ton/crypto');
const ask = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const code = Cell.fromBase64(ask.code);
function address(publicKey, networkId) {
  const context = beginCell().storeUint(1, 1).storeInt(0, 8).storeUint(0, 8).storeUint(0, 15).endCell();
  const walletId = BigInt(networkId) ^ BigInt(context.beginParse().loadInt(32));
  const data = beginCell().storeUint(1, 1).storeUint(0, 32).storeInt(walletId, 32).storeBuffer(publicKey, 32);
  const found = contractAddress(0, { code, data: data.storeBit(0).endCell() });
  return found.toString({ bounceable: false, testOnly: networkId !== -239 });
}
async function main() {
  const answers = [];
  for (const { words, password } of ask.wallets) {
    const pair = await mnemonicToPrivateKey(words, password);
    answers.push({ valid: await mnemonicValidate(words, password), key: pair.secretKey.toString('hex'),
      mainnet: address(pair.publicKey, -239), testnet: address(pair.publicKey, -3) });
  }
  console.log(JSON.stringify(answers));
}
main();
"""


def drawn(seed: int) -> Any:
    return random.Random(seed).randbytes


@cache
def locked_words() -> tuple[str, ...]:
    """Words that belong to a password: this seed comes to some after 144 attempts, the usual ones after 65,536."""
    return tuple(new_mnemonic("correct horse", random_bytes=drawn(295)))


def asked(wallets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """TON's own JavaScript libraries, on these words."""
    import base64

    from pytoniq.contract.wallets.wallet_v5 import WALLET_V5_R1_CODE

    code = base64.b64encode(WALLET_V5_R1_CODE.to_boc()).decode()
    question = json.dumps({"wallets": wallets, "code": code})
    done = subprocess.run(
        [trio.run(node_program), "-e", ORACLE], input=question, capture_output=True, text=True, check=True, timeout=60,
        env={"NODE_PATH": str(node_modules()), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def test_a_known_key_has_the_known_v5r1_address() -> None:
    assert wallet_address_of_key(PUBLIC_KEY, -239) == "UQBiUbwjoB56b7CYtoiPnY5vPh2Fwjva6jEPBhqnttjQKpce"


def test_known_words_have_the_known_key() -> None:
    assert mnemonic_seed(WORDS).hex() == "9d659a6c2234db7f6e4f977e6e8653b9f5946d557163f31034011375d8f3f97d"


def test_words_keys_and_addresses_are_those_of_tons_own_libraries() -> None:
    ours = tuple(new_mnemonic(random_bytes=drawn(1)))
    wallets = [{"words": words, "password": ""} for words in (tuple(WORDS), ours)]
    wallets.append({"words": locked_words(), "password": "correct horse"})
    for wallet, answer in zip(wallets, asked(wallets), strict=True):
        words, password = wallet["words"], str(wallet["password"])
        assert answer["valid"] is True
        assert check_mnemonic(words, password)
        assert bytes.fromhex(answer["key"])[:32] == mnemonic_seed(words, password)
        for name, network_id in (("mainnet", -239), ("testnet", -3)):
            assert Wallet.from_mnemonic(list(words), network_id, password).friendly_address() == answer[name]


def test_words_with_a_password_are_nothing_without_it() -> None:
    words = locked_words()
    assert needs_password(words)
    assert not check_mnemonic(words)
    assert not check_mnemonic(words, "wrong horse")
    with pytest.raises(ValueError, match="belong to a mnemonic password"):
        Wallet.from_mnemonic(words, -239)
    with pytest.raises(ValueError, match="password is wrong"):
        Wallet.from_mnemonic(words, -239, "wrong horse")


def test_words_without_a_password_are_refused_with_one() -> None:
    with pytest.raises(ValueError, match="the words have none"):
        Wallet.from_mnemonic(WORDS, -239, "correct horse")


def test_a_misspelt_word_is_found_and_not_repeated() -> None:
    """pytoniq's own check takes words that are on no list."""
    bad = [*WORDS[:4], "tonque", *WORDS[5:]]
    assert not check_mnemonic(bad)
    assert mnemonic_problem(bad) == "not a TON mnemonic: word 5 is not on the list (misspelt?)"
    assert "23 words" in mnemonic_problem(WORDS[:-1])
    assert "checksum" in mnemonic_problem([*WORDS[1:], WORDS[0]])
    for invented in itertools.islice((["zzz"] * 23 + [f"z{n}"] for n in range(2000)), 2000):
        assert not check_mnemonic(invented)


def test_spelling_in_capitals_or_with_spaces_is_the_same_wallet() -> None:
    assert Wallet.from_mnemonic([f" {word.upper()} " for word in WORDS], -239) == Wallet.from_mnemonic(WORDS, -239)


def test_the_same_randomness_makes_the_same_words_and_other_randomness_others() -> None:
    assert new_mnemonic(random_bytes=drawn(1)) == new_mnemonic(random_bytes=drawn(1))
    assert new_mnemonic(random_bytes=drawn(1)) != new_mnemonic(random_bytes=drawn(2))
    assert new_mnemonic() != new_mnemonic()
