"""Trouble on demand, for tests and for people: a network that is slow or full, liteservers that lose, lag and lie.

``Devnet.trouble`` is the network's, ``Devnet.liteservers[i].trouble`` a server's; both may be replaced at any time. A
:class:`TroubleScript` (JSON) does it at given times: see docs/devnet.md.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec

from overlay.settlement.devnet.limits import MAX_TRANSACTIONS_PER_BLOCK, MAX_TROUBLE_BYTES, MAX_TROUBLE_S
from overlay.settlement.errors import DevnetError

Seconds = Annotated[float, msgspec.Meta(ge=0, le=MAX_TROUBLE_S)]


class Lie(StrEnum):
    """What a liteserver can do to its clients."""

    SILENCE = "silence"
    """Takes queries and never answers."""
    GARBAGE = "garbage"
    """Answers with bytes that are no TL."""
    REFUSAL = "refusal"
    """Answers every query with an error."""
    HANG_UP = "hang-up"
    """Closes the connection on the first query."""
    STALE = "stale"
    """Stays at the block that was newest when it began to lie. Everything it says of that block is true."""
    WRONG_STATE = "wrong-state"
    """Delivers another account state than the one it proves."""
    BROKEN_PROOF = "broken-proof"
    """Account proofs with a bit flipped."""
    FORGED_ABSENCE = "forged-absence"
    """Says of every account that it does not exist, with a true proof that another one does not."""
    FORGED_CHAIN = "forged-chain"
    """Shows blocks of its own, in which ``forged_accounts`` are as it likes. Every Merkle proof holds; the signatures
    are of validators of its own, in a key block of its own."""
    WRONG_SIGNATURES = "wrong-signatures"
    """True blocks with signatures that are not the validators'."""


class ServerTrouble(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One liteserver's. ``forged_accounts`` maps raw addresses to nanoTON, or to ``None`` for absence."""

    answer_delay_s: Seconds = 0.0
    """Before each answer."""
    lose_externals: Annotated[int, msgspec.Meta(ge=0, le=2**31)] = 0
    """So many of the next external messages are taken, and lost."""
    lies: frozenset[Lie] = frozenset()
    forged_accounts: dict[str, int | None] = {}


class NetworkTrouble(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The chain's own. With either set, messages wait for a block as on a real network; else each seals one."""

    block_delay_s: Seconds = 0.0
    """From a message, or from the last block, to the block that may show it."""
    messages_per_block: Annotated[int, msgspec.Meta(ge=1, le=MAX_TRANSACTIONS_PER_BLOCK)] | None = None
    """So many transactions at most; what is left over waits for the next block."""

    @property
    def slow(self) -> bool:
        """Whether messages wait."""
        return self.block_delay_s > 0 or self.messages_per_block is not None


class ServerStep(ServerTrouble, frozen=True, forbid_unknown_fields=True):
    """A server's trouble from a step on; ``server`` counts from 0."""

    server: Annotated[int, msgspec.Meta(ge=0)] = 0


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What changes at ``at_s`` seconds after the start. What a step does not name stays as it is."""

    at_s: Seconds
    network: NetworkTrouble | None = None
    servers: list[ServerStep] = []


class TroubleScript(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A timetable of trouble, in the order of its times."""

    steps: list[Step]

    @property
    def servers(self) -> int:
        """How many liteservers it speaks of."""
        return max((each.server + 1 for step in self.steps for each in step.servers), default=0)


def read_script(path: Path) -> TroubleScript:
    """Read a script. Raises :class:`DevnetError` that says where it is wrong."""
    try:
        if path.stat().st_size > MAX_TROUBLE_BYTES:
            raise DevnetError(f"{path} is no trouble script: it is larger than {MAX_TROUBLE_BYTES} bytes")
        script = msgspec.json.decode(path.read_bytes(), type=TroubleScript)
    except OSError as error:
        raise DevnetError(f"the trouble script {path} cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise DevnetError(f"{path} is no trouble script: {error}; docs/devnet.md has an example") from error
    times = [step.at_s for step in script.steps]
    if times != sorted(times):
        raise DevnetError(f"{path} is no trouble script: its steps must stand in the order of their times")
    return script
