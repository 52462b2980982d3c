"""The options of `cocoon swarm up --netns`, from text to what they mean."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from overlay.errors import ConfigError
from simulations.netns.nat import NatKind
from simulations.netns.shape import Shape, duration_s, rate_bit_s, share

if TYPE_CHECKING:
    from simulations.netns.network import NetworkOptions

_Choice = TypeVar("_Choice", bound=StrEnum)


def network_options(
    number: int,
    *,
    netns: bool,
    delay: str,
    jitter: str,
    loss: str,
    rate: str | None,
    nat: int,
    nat_kind: str,
    carrier: str | None,
) -> NetworkOptions | None:
    """What was asked for; ``None`` without ``netns``.

    Raises :class:`~overlay.errors.ConfigError` for what cannot be read, cannot be, or needs ``--netns``.
    """
    shape = Shape(
        duration_s(delay, "--delay"),
        duration_s(jitter, "--jitter"),
        share(loss, "--loss"),
        rate_bit_s(rate, "--rate") if rate is not None else None,
    )
    if not netns:
        if shape != Shape() or nat or carrier is not None:
            raise ConfigError(
                "--delay, --jitter, --loss, --rate, --nat and --carrier need --netns: without it all nodes share this "
                "machine's own network"
            )
        return None
    # pyroute2 is slow to import, and only this needs it.
    from simulations.netns.network import Carrier, NetworkOptions

    options = NetworkOptions(
        shape,
        nat,
        _choice(NatKind, nat_kind, "--nat-kind"),
        _choice(Carrier, carrier, "--carrier") if carrier is not None else None,
    )
    options.check(number)
    return options


def _choice(kind: type[_Choice], text: str, option: str) -> _Choice:
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"{option}: there is no {text!r}; there are {', '.join(kind)}") from None
