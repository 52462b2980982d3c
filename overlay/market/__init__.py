"""How a price is found: requests for quotes, sealed binding quotes, at most one counter, an agreement signed by both.

The rules are pure (`negotiation` for the client, `quoting` and `controller` for the provider, `selection` for the
choices); `client` and `provider` drive them over a host. The protocol is in docs/protocols/market.md.
"""

from overlay.market.agreement import Agreement, AgreementBody, Payer, Tier, agreement_id, sign_agreement
from overlay.market.client import Buyer, Clock, Offer, collect_quotes, market_protocol, negotiate
from overlay.market.controller import Load, PriceController
from overlay.market.limits import DEFAULT_AGREEMENT_MS
from overlay.market.messages import Quote, Reason
from overlay.market.negotiation import ClientNegotiation, Failure, State
from overlay.market.provider import MarketServer, StoreAgreement, run_controllers
from overlay.market.quoting import Catalog, Listing, PaymentTerms, QuoteDesk, Refusal, Reply
from overlay.market.selection import Candidate, ClientPolicy, Want, shortlist
from overlay.market.trace import Agreed, Asked, Countered, Declined, Observer, Quoted, Trace, silent

__all__ = [
    "DEFAULT_AGREEMENT_MS",
    "Agreed",
    "Agreement",
    "AgreementBody",
    "Asked",
    "Buyer",
    "Candidate",
    "Catalog",
    "ClientNegotiation",
    "ClientPolicy",
    "Clock",
    "Countered",
    "Declined",
    "Failure",
    "Listing",
    "Load",
    "MarketServer",
    "Observer",
    "Offer",
    "Payer",
    "PaymentTerms",
    "PriceController",
    "Quote",
    "QuoteDesk",
    "Quoted",
    "Reason",
    "Refusal",
    "Reply",
    "State",
    "StoreAgreement",
    "Tier",
    "Trace",
    "Want",
    "agreement_id",
    "collect_quotes",
    "market_protocol",
    "negotiate",
    "run_controllers",
    "shortlist",
    "sign_agreement",
    "silent",
]
