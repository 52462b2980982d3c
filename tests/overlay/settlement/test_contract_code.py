"""The committed code is what the committed source compiles to, and both sides know the same bounds."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import trio

from overlay.settlement import limits
from overlay.settlement.cells import channel_code
from overlay.settlement.devnet.tvm import node_modules, node_program

CONTRACT = Path(limits.__file__).parent / "contract"
ROOT = Path(__file__).parents[3]


async def test_the_source_compiles_to_the_committed_code() -> None:
    result = await trio.run_process(
        [await node_program(), str(CONTRACT / "compile.js"), "--check"],
        capture_stdout=True,
        env={**os.environ, "NODE_PATH": str(node_modules())},
    )
    assert json.loads(result.stdout)["codeHash"] == channel_code().hash.hex()


def test_the_committed_hash_is_the_committed_codes() -> None:
    assert (CONTRACT / "channel.code_hash").read_text().strip() == channel_code().hash.hex()


def test_the_contract_and_the_client_have_the_same_bounds() -> None:
    source = (CONTRACT / "channel.tolk").read_text()

    def toncoin(name: str) -> int:
        found = re.search(rf'const {name}\s*= ton\("([0-9.]+)"\)', source)
        assert found is not None
        whole, _, fraction = found[1].partition(".")
        return int(whole) * 10**9 + int(fraction.ljust(9, "0"))

    def days(name: str) -> int:
        found = re.search(rf"const {name}\s*= (\d+) \* 86400", source)
        assert found is not None
        return int(found[1]) * 86_400

    assert toncoin("RENT_RESERVE") == limits.RENT_RESERVE_NANOTON
    assert toncoin("ATTACHED_MIN") == limits.ATTACHED_MIN_NANOTON
    assert toncoin("MIN_DEPOSIT") == limits.MIN_DEPOSIT_NANOTON
    assert days("MAX_LIFETIME") == limits.MAX_LIFETIME_S
    assert days("MAX_CHALLENGE") == limits.MAX_CHALLENGE_PERIOD_S


def test_the_npm_lock_file_pins_every_package_and_names_no_host() -> None:
    lock = json.loads((ROOT / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert "node_modules/@ton/sandbox" in packages
    assert all("integrity" in entry and "resolved" not in entry for entry in packages.values())
