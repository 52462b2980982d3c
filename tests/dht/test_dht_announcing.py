"""When a record is sent again, and how much a neighbour may ask."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht import CapacityRecord, Offer
from dht.announcing import Allowance, due_at, moved
from dht.exchange import Page, PageRequest, RecordRequest, parse_request
from dht.limits import MIN_ANNOUNCE_INTERVAL_S, PAGE_RECORDS
from transport.wire import WireError

OFFER = Offer("chat", "m", "plain", {"prompt": 1000, "completion": 3000}, slots=10, busy=2, units_per_s=100)
RECORD = CapacityRecord("main", offers=(OFFER,), ttl_s=120)


def with_offer(**changes: Any) -> CapacityRecord:
    return replace(RECORD, offers=(replace(OFFER, **changes),))


@pytest.mark.parametrize(
    ("changes", "news"),
    [
        ({}, False),
        ({"prices": {"prompt": 1100, "completion": 3000}}, False),
        ({"prices": {"prompt": 1101, "completion": 3000}}, True),
        ({"prices": {"prompt": 899, "completion": 3000}}, True),
        ({"prices": {"prompt": 1000}}, True),
        ({"busy": 3}, False),
        ({"busy": 4}, True),
        ({"slots": 11}, True),
        ({"units_per_s": 109}, False),
        ({"units_per_s": 111}, True),
        ({"queue_wait_ms": 90}, False),
        ({"queue_wait_ms": 500}, True),
        ({"model": "n"}, True),
        ({"context": 4096}, True),
    ],
)
def test_ten_percent_is_the_difference_between_noise_and_news(changes: dict[str, Any], news: bool) -> None:
    assert moved(RECORD, with_offer(**changes)) is news


def test_another_address_key_or_set_of_offers_is_news() -> None:
    assert moved(RECORD, replace(RECORD, host_addrs=("/ip4/1.2.3.4/tcp/1",)))
    assert moved(RECORD, replace(RECORD, noise_key=b"k" * 32))
    assert moved(RECORD, replace(RECORD, offers=()))
    assert not moved(RECORD, replace(RECORD, seq=9, issued_at=9))


def test_the_first_record_is_due_at_once_a_change_soon_and_the_rest_after_a_third_of_the_ttl() -> None:
    assert due_at(None, float("-inf"), RECORD) == float("-inf")
    assert due_at(RECORD, 100.0, RECORD) == 140.0
    assert due_at(RECORD, 100.0, with_offer(busy=9)) == 100.0 + MIN_ANNOUNCE_INTERVAL_S


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 2)), max_size=60))
def test_no_peer_gets_more_than_its_burst_and_its_rate(requests: list[tuple[str, float]]) -> None:
    allowance = Allowance(burst=3, per_s=1.0)
    now = 0.0
    granted: dict[str, int] = {}
    for peer, pause in requests:
        now += pause
        granted[peer] = granted.get(peer, 0) + allowance.take(peer, now)
        assert granted[peer] <= 3 + now + 1e-9


def test_a_peer_that_waits_is_served_again_and_others_are_not_affected() -> None:
    allowance = Allowance(burst=2, per_s=0.5)
    assert [allowance.take("a", 0.0) for _ in range(3)] == [True, True, False]
    assert allowance.take("b", 0.0)
    assert not allowance.take("a", 1.0)
    assert allowance.take("a", 2.0)


def test_the_table_of_allowances_is_bounded() -> None:
    allowance = Allowance(burst=1, per_s=0.0, max_peers=2)
    for peer in "abc":
        assert allowance.take(peer, 0.0)
    assert len(allowance._buckets) == 2


@given(st.binary(max_size=200))
def test_garbage_is_neither_request_nor_page(data: bytes) -> None:
    for parse in (parse_request, Page.from_bytes):
        try:
            parsed = parse(data)
        except WireError:
            continue
        assert parsed.to_bytes() == data


@given(st.text(max_size=20), st.integers(1, PAGE_RECORDS))
def test_a_request_is_read_as_written(after: str, limit: int) -> None:
    assert parse_request(PageRequest(after, limit).to_bytes()) == PageRequest(after, limit)
    assert parse_request(RecordRequest(after).to_bytes()) == RecordRequest(after)


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=PAGE_RECORDS), st.booleans())
def test_a_page_is_read_as_written(envelopes: list[bytes], more: bool) -> None:
    page = Page(tuple(envelopes), more)
    assert Page.from_bytes(page.to_bytes()) == page


def test_an_empty_page_that_promises_more_is_refused() -> None:
    with pytest.raises(WireError, match="empty page"):
        Page.from_bytes(Page((), True).to_bytes())
