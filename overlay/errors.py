"""Everything that can go wrong for whoever asked for something, in one glance.

    CocoonError
    ├── InvalidRequest        the request cannot be served as written; ``param`` names the field
    │   └── TooLarge          … because it is too big
    ├── UnknownModel          nobody is known to serve that model
    ├── Unfunded              the wallet or the channel cannot pay for it
    ├── NoProvider            nobody could be agreed with
    │   └── TooExpensive      … because every price is above the cap; ``best`` is the cheapest one seen
    ├── Busy                  try again after ``retry_after_s`` seconds
    ├── ProviderGone          the provider stopped serving in the middle of a job
    ├── ConfigError           a file, flag or environment variable is wrong
    │   ├── DataDirBusy       another process holds the data directory
    │   ├── SubnetError       a subnet file is missing, damaged or not ours
    │   └── PortBusy          something else listens where we want to
    └── ChainError            TON could not be reached, or did not do what was asked

A message says what happened and what to do next; it is shown to people as it stands. ``code`` is stable and for
programs. The gateway maps these to HTTP statuses, the command line to exit codes.
"""

from __future__ import annotations

from typing import ClassVar

from compute.usage import Prices


class CocoonError(Exception):
    """The root: ``code`` names the kind of failure for programs, ``str()`` explains it to people."""

    code: ClassVar[str] = "internal_error"
    exit_code: ClassVar[int] = 1
    """What the command line exits with."""


class InvalidRequest(CocoonError):
    """The request cannot be served as written."""

    code = "invalid_request"
    exit_code = 2

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class TooLarge(InvalidRequest):
    """The request is bigger than what is accepted."""

    code = "request_too_large"


class UnknownModel(CocoonError):
    """No provider that we know of serves ``model``."""

    code = "model_not_found"
    exit_code = 3

    def __init__(self, model: str, message: str | None = None) -> None:
        super().__init__(
            message
            or f"no provider that this node knows of serves the model {model!r}; GET /v1/models lists what is on offer"
        )
        self.model = model


class Unfunded(CocoonError):
    """The wallet or the payment channel cannot pay for what was asked."""

    code = "insufficient_funds"
    exit_code = 4


class NoProvider(CocoonError):
    """No provider could be agreed with."""

    code = "no_provider"
    exit_code = 3


class TooExpensive(NoProvider):
    """Every provider that answered asks more than the cap. ``best`` is the cheapest price vector seen."""

    code = "too_expensive"

    def __init__(self, message: str, *, best: Prices) -> None:
        super().__init__(message)
        self.best = best


class Busy(CocoonError):
    """There is no room for it now; trying again after ``retry_after_s`` seconds may work."""

    code = "busy"
    exit_code = 3

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ProviderGone(CocoonError):
    """The provider stopped serving in the middle of a job. Nothing is paid for what was not delivered."""

    code = "provider_gone"
    exit_code = 3


class ConfigError(CocoonError):
    """A file, flag or environment variable is wrong."""

    code = "config"
    exit_code = 2


class DataDirBusy(ConfigError):
    """Another process holds the data directory."""

    code = "data_dir_busy"


class SubnetError(ConfigError):
    """A subnet file is missing, damaged or not ours."""

    code = "subnet"


class ChainError(CocoonError):
    """TON could not be reached, or did not do what was asked."""

    code = "chain"
    exit_code = 5


class PortBusy(ConfigError):
    """Something else listens on the port that we want."""

    code = "port_busy"

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"port {port} on {host} is in use by another program; stop it, or choose another port")
        self.host = host
        self.port = port
