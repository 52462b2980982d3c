"""Claims for providers that are not there: a node that holds their vouchers, and their side of handing them over."""

from overlay.watchtower.handover import Handover, parse_towers
from overlay.watchtower.limits import LAST_HAND_OVER_S
from overlay.watchtower.messages import watchtower_protocol
from overlay.watchtower.rules import ANYONE, TowerPolicy
from overlay.watchtower.store import TowerBooks, TowerStore, open_tower_books
from overlay.watchtower.tower import Watchtower, tower_state

__all__ = [
    "ANYONE",
    "LAST_HAND_OVER_S",
    "Handover",
    "TowerBooks",
    "TowerPolicy",
    "TowerStore",
    "Watchtower",
    "open_tower_books",
    "parse_towers",
    "tower_state",
    "watchtower_protocol",
]
