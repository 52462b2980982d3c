"""Who has which channel with whom: opened by the client, believed from the chain by the provider, ended by either."""

from overlay.channels.messages import channel_protocol
from overlay.channels.payee import ChannelUse, PayeeDesk
from overlay.channels.payer import Payee, PayerDesk, Settlement

__all__ = ["ChannelUse", "Payee", "PayeeDesk", "PayerDesk", "Settlement", "channel_protocol"]
