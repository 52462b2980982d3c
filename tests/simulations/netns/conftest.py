"""Real namespaces, for the tests that need them; they are skipped where this machine has none."""

import pytest


@pytest.fixture(scope="session")
def real_network() -> None:
    """Skips the test unless this user may make network namespaces, veth pairs and TUN devices here."""
    import trio

    from overlay.errors import ConfigError
    from simulations.netns.network import Carrier, NetworkOptions, open_network

    async def try_all(home) -> None:
        for carrier in (Carrier.VETH, Carrier.RELAY):
            async with open_network(1, NetworkOptions(carrier=carrier), home):
                pass

    try:
        trio.run(try_all, "a test")
    except ConfigError as error:
        pytest.skip(f"needs root, network namespaces, veth and TUN: {error}")
