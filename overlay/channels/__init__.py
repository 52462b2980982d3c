"""Who has which channel with whom: opened by the client, believed from the chain by the provider, ended by either."""

from overlay.channels.held import ChannelUse, Held
from overlay.channels.messages import channel_protocol
from overlay.channels.outcome import Settlement
from overlay.channels.payee import PayeeDesk
from overlay.channels.payer import Payee, PayerDesk
from overlay.channels.rehearsal import Outcome, Rehearsal, open_stage, read_situation
from overlay.channels.settling import ClaimPolicy

__all__ = [
    "ChannelUse",
    "ClaimPolicy",
    "Held",
    "Outcome",
    "Payee",
    "PayeeDesk",
    "PayerDesk",
    "Rehearsal",
    "Settlement",
    "channel_protocol",
    "open_stage",
    "read_situation",
]
