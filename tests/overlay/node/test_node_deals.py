"""Whom a standing agreement is passed over for, and what a provider without a channel costs."""

from __future__ import annotations

from compute.usage import Prices, Unit, Usage
from overlay.market import Candidate, Declined, Reason, silent
from overlay.node.deals import CHANNEL_FEES_NANOTON, CROWDED_WAIT_MS, OPENING_MS, crowded, with_setup
from transport.identity import PeerId

PEER = PeerId("provider")


def test_a_provider_with_a_queue_is_passed_over_although_there_is_an_agreement():
    assert not crowded(0)
    assert not crowded(CROWDED_WAIT_MS)
    assert crowded(CROWDED_WAIT_MS + 1)


def test_a_channel_is_paid_for_by_all_the_jobs_that_its_deposit_pays_for():
    candidate = Candidate(PEER, Prices({Unit.COMPLETION: 60_000_000}), 0, 50.0)
    usage = Usage({Unit.COMPLETION: 1000})
    found = with_setup(candidate, usage, 500_000_000)
    assert (found.setup_nanoton, found.setup_ms) == (CHANNEL_FEES_NANOTON * 60_000 // 500_000_000, OPENING_MS)
    assert (candidate.setup_nanoton, candidate.setup_ms) == (0, 0)
    assert with_setup(candidate, usage, 60_000).setup_nanoton == CHANNEL_FEES_NANOTON


def test_only_who_did_not_answer_is_left_out_for_a_while():
    assert silent(Declined(PEER, Reason.UNREACHABLE, ""))
    assert silent(Declined(PEER, Reason.NO_ANSWER, ""))
    assert not silent(Declined(PEER, Reason.BUSY, ""))
