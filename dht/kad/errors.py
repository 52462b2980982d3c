"""What can go wrong in the Kademlia.

KadError
├── BadMessage       a peer sent what no honest node sends
├── InvalidRecord    a validator refused a value
└── StoreRefused     a valid record that we do not keep: older than ours, or its sender has used up its share
"""

from __future__ import annotations


class KadError(Exception):
    """Base of this package's errors; the message says what happened."""


class BadMessage(KadError):
    """A message that breaks the protocol; it counts against its sender."""


class InvalidRecord(KadError):
    """A value that a validator refuses: malformed, expired, from the future, signed by somebody else."""


class StoreRefused(KadError):
    """A valid record that is not kept. No offence: an honest peer may not know better."""
