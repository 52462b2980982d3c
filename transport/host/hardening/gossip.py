"""P13a, P13b: gossip in bursts, and what each frame costs to verify."""

from __future__ import annotations

from functools import partial
from typing import Any

from libp2p.peer.id import ID
from libp2p.pubsub import gossipsub, pubsub
from libp2p.pubsub.rpc_queue import RpcQueue

from transport.host.limits import GOSSIP_QUEUE


def widen_gossip_queues() -> None:
    """Let a burst of gossip wait for its neighbour. pubsub/rpc_queue.py:39 holds 32 frames and rejects the
    rest, which then travel a heartbeat or more later, by IHAVE and IWANT, or not at all."""
    pubsub.RpcQueue = partial(RpcQueue, GOSSIP_QUEUE)


def skip_sender_records() -> None:
    """Verify a gossip frame's messages, not its sender, whom Noise has authenticated already.

    py-libp2p adds a signed record of the sender's addresses to every frame, outside of the gossipsub specification, and
    verifies it on each (pubsub/pubsub.py:565, gossipsub.py:932): ten signatures for every one of a message.
    """

    def ignore(_rpc: Any, _host: Any, _peer: ID) -> bool:
        return True

    pubsub.maybe_consume_signed_record = ignore
    gossipsub.maybe_consume_signed_record = ignore
