import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import SubnetError
from overlay.subnet import PUBLIC, Subnet, create_subnet, load_subnet, parse_subnet


def make(name: str = "friends", bootstrap: tuple[str, ...] = ()) -> Subnet:
    return create_subnet(name, bootstrap, random.Random(1).randbytes)


@given(
    st.from_regex(r"[a-z0-9][a-z0-9-]{0,14}", fullmatch=True),
    st.lists(st.from_regex(r"/[a-z0-9/.]{1,40}", fullmatch=True), max_size=5),
    st.integers(),
)
def test_a_subnet_file_says_what_it_was_made_from(name: str, bootstrap: list[str], seed: int) -> None:
    subnet = create_subnet(name, tuple(bootstrap), random.Random(seed).randbytes)
    assert parse_subnet(subnet.to_text(), "file") == subnet


def test_the_end_of_the_file_is_a_kubo_swarm_key() -> None:
    subnet = make()
    assert subnet.swarm_key is not None
    assert subnet.to_text().endswith(f"\n/key/swarm/psk/1.0.0/\n/base16/\n{subnet.swarm_key.hex()}\n")


def test_the_tunnel_key_is_neither_the_swarm_key_nor_shared_between_subnets() -> None:
    one, other = make(), create_subnet("friends", (), random.Random(2).randbytes)
    assert one.tunnel_psk != one.swarm_key
    assert one.tunnel_psk != other.tunnel_psk
    assert one.tunnel_psk is not None
    assert len(one.tunnel_psk) == 32


def test_the_public_network_has_no_key_and_no_file() -> None:
    assert load_subnet(None) is PUBLIC
    assert not PUBLIC.private
    assert PUBLIC.tunnel_psk is None
    with pytest.raises(SubnetError):
        PUBLIC.to_text()


@given(st.text(max_size=300))
def test_any_text_is_a_subnet_or_refused_by_name(text: str) -> None:
    with pytest.raises(SubnetError, match=r"some\.file"):
        parse_subnet(text, "some.file")


@given(st.data())
def test_a_damaged_file_is_refused_or_still_has_its_key(data: st.DataObject) -> None:
    text = make().to_text()
    at = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:at] + text[at + 1 :]
    with contextlib.suppress(SubnetError):
        assert parse_subnet(damaged, "f").swarm_key == make().swarm_key


def test_nobody_can_pass_a_private_file_off_as_the_public_network() -> None:
    text = make().to_text().replace(f"id: {make().id}", "id: main")
    with pytest.raises(SubnetError):
        parse_subnet(text, "f")


def test_the_key_is_not_in_the_repr() -> None:
    subnet = make()
    assert subnet.swarm_key is not None
    assert subnet.swarm_key.hex() not in repr(subnet)
    assert repr(subnet.swarm_key) not in repr(subnet)
