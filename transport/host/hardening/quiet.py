"""libp2p's logging, kept off the terminal."""

from __future__ import annotations

import logging

from libp2p.network.connection import swarm_connection

log = logging.getLogger("cocoon.host")
"""Where the mends say what they contained, at debug level."""


def quiet_libp2p() -> None:
    """Keep libp2p's logging off the terminal; whoever wants it adds a handler to the logger ``libp2p``.

    network/connection/swarm_connection.py calls ``logging.debug`` on the module, which installs a handler on the root
    logger; the rest prints warnings and tracebacks through Python's handler of last resort.
    """
    swarm_connection.logging = logging.getLogger("libp2p.network.connection")
    logger = logging.getLogger("libp2p")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    logger.propagate = False
    if not log.handlers:
        log.addHandler(logging.NullHandler())
