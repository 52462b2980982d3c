"""The faults of py-libp2p 0.8.1 and what is done about each. File and line are upstream's, of that version.

Unpatched, one authenticated peer ends the process with a few bytes, and a host goes deaf after 250 inbound connections.

====  =========================================================  ====================================================
P1    a stream handler's exception ends the host                 :func:`guard_streams`, :class:`ContainedManager`
P2    inbound slots are never released                           :func:`accept_inbound`
P3    cancelling a writer breaks the connection                  :mod:`transport.host.tcp`, :func:`open_muxed_stream`
P4    every dial sleeps 250 ms                                   :func:`dial`
P5    a failed dial bars the peer for 60 s                       :func:`dial`, :func:`forbid_hidden_dials`
P6    the yamux receive window is not enforced                   :func:`mend_flow_control`
P7    a write polls an empty window, and gives up after 5 s      :func:`mend_flow_control`
P8    inbound streams are unbounded, and block the read loop     :func:`guard_streams`
P9    plaintext and secio are accepted                           :func:`noise_only`
P10   the private network cipher is not the spec's               :mod:`transport.host.pnet`
P11   half-open connections shut others out                      :class:`HalfOpenBudget`
P12   kad-dht                                                    not used: :mod:`dht` is ours
P13   gossipsub heartbeat of 120 s, 10 messages/s                :mod:`transport.host.gossip`
P13a  more than 32 frames queued for a neighbour are lost        :func:`widen_gossip_queues`
P13b  each gossip frame is signed and verified as such           :func:`skip_sender_records`
P13c  gossip is lost to a neighbour that reconnects quickly      :meth:`transport.host.gossip.Gossip.connection_lost`
P13d  a restarted node's gossip is taken for repetition          :mod:`transport.host.gossip`
P14   IPv6 peers have no address                                 :mod:`transport.host.tcp`
P15   reads give up after 100 pieces                             :mod:`transport.host.tcp`
P16   listeners and identify run as trio system tasks            :mod:`transport.host.tcp`, :func:`identify_in`
P17   identify keeps a gigabyte of one peer's claims             :func:`bound_identify`
P18   streams that the other side never closes are kept          :func:`guard_streams`, :func:`forget`
P19   a connection to a peer that does not read never closes     :func:`close_connection`
P20   handshakes are done as fast as anybody asks for them       :class:`HandshakeRates`
====  =========================================================  ====================================================
"""

from transport.host.hardening.admission import HalfOpenBudget, accept_inbound
from transport.host.hardening.dialling import (
    close_connection,
    dial,
    forbid_hidden_dials,
    say_goodbye,
    socket_of,
    upgrade,
)
from transport.host.hardening.flow import WindowOverrun, mend_flow_control
from transport.host.hardening.gossip import skip_sender_records, widen_gossip_queues
from transport.host.hardening.handshakes import HandshakeRates
from transport.host.hardening.identify import bound_identify, identify_in
from transport.host.hardening.quiet import log, quiet_libp2p
from transport.host.hardening.security import libp2p_keys, noise_only
from transport.host.hardening.services import ContainedManager
from transport.host.hardening.streams import forget, guard_streams, open_muxed_stream

__all__ = [
    "ContainedManager",
    "HalfOpenBudget",
    "HandshakeRates",
    "WindowOverrun",
    "accept_inbound",
    "bound_identify",
    "close_connection",
    "dial",
    "forbid_hidden_dials",
    "forget",
    "guard_streams",
    "identify_in",
    "libp2p_keys",
    "log",
    "mend_flow_control",
    "noise_only",
    "open_muxed_stream",
    "quiet_libp2p",
    "say_goodbye",
    "skip_sender_records",
    "socket_of",
    "upgrade",
    "widen_gossip_queues",
]
