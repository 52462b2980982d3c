"""One TVM process for all tests of the contract: it starts in half a second."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from overlay.settlement.model.replica import Replica, open_replica


@pytest.fixture(scope="session")
def running_replica() -> Iterator[Replica]:
    with open_replica() as opened:
        yield opened


@pytest.fixture
def replica(running_replica: Replica) -> Replica:
    """The real TVM with no accounts in it."""
    running_replica.forget()
    return running_replica
