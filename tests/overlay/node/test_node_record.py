import time
from types import SimpleNamespace

import pytest

from dht import Offer
from overlay.events import EventLog, NodeEvent
from overlay.node.provider import ProviderNode
from overlay.subnet import PUBLIC
from transport.identity import Identity

IDENTITY = Identity(bytes(32))


def node(models: int, lines: list[NodeEvent]) -> ProviderNode:
    offers = tuple(
        Offer("chat", f"{'m' * 60}-{n}", "plain", {"prompt": 10**9, "completion": 10**9}) for n in range(models)
    )
    return ProviderNode(
        identity=IDENTITY,
        subnet=PUBLIC,
        host=SimpleNamespace(addrs=[f"/ip4/127.0.0.1/tcp/1/p2p/{IDENTITY.peer_id}"]),
        listener=SimpleNamespace(
            addrs=["/ip4/127.0.0.1/tcp/2"], endpoint=SimpleNamespace(static_key=SimpleNamespace(public=bytes(32)))
        ),
        shop=SimpleNamespace(offers=lambda: offers),
        log=EventLog(lines.append, lambda: 0.0),
        started_at=0.0,
        clock=time.time,
        **dict.fromkeys(("chain", "ledger", "directory", "jobs", "channels", "discovery", "reachability")),
    )


@pytest.mark.parametrize("models", [1, 3])
def test_every_offer_is_announced_while_there_is_room(models: int) -> None:
    lines: list[NodeEvent] = []
    assert len(node(models, lines).record().offers) == models
    assert lines == []


def test_a_node_with_more_models_than_a_record_holds_announces_the_first_and_says_so_once() -> None:
    lines: list[NodeEvent] = []
    crowded = node(30, lines)
    record = crowded.record()
    assert 1 <= len(record.offers) < 30
    assert record.offers == crowded.shop.offers()[: len(record.offers)]
    crowded.record()
    assert len(lines) == 1
    assert "engine.upstream.models" in lines[0].text
