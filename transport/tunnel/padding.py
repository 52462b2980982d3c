"""Length hiding: batches of small frames are filled up to a bucket, so that sizes tell an observer little of tokens.

A padded batch has one of the lengths in ``PAD_BUCKETS``; longer ones, which carry bulk or many messages at once, are
left as they are. The number of batches and their times are not hidden.
"""

from __future__ import annotations

from bisect import bisect_left

from transport.tunnel.frames import HEADER, HEADER_BYTES, PAD
from transport.tunnel.limits import PAD_BUCKETS
from transport.tunnel.records import Piece


def pad(pieces: list[Piece]) -> None:
    """Append a PAD frame that fills the batch up to the smallest bucket that holds it."""
    size = sum(map(len, pieces))
    index = bisect_left(PAD_BUCKETS, size)
    if index < len(PAD_BUCKETS) and PAD_BUCKETS[index] == size:
        return
    index = bisect_left(PAD_BUCKETS, size + HEADER_BYTES)
    if index < len(PAD_BUCKETS):
        length = PAD_BUCKETS[index] - size - HEADER_BYTES
        pieces.append(HEADER.pack(0, PAD << 24 | length) + bytes(length))
