"""Everything that can go wrong and that a person may have to read about.

    CocoonError                      message: what happened, why, what to do next
    ├── ConfigError                  a file, flag or environment variable is wrong
    │   ├── DataDirBusy              another process holds the data directory
    │   ├── SubnetError              a subnet file is missing, damaged or not ours
    │   └── PortBusy                 somebody else listens there
    ├── InvalidRequest               the request cannot be served as written (``param`` names the field)
    │   ├── UnknownModel             nobody offers this model for this task
    │   └── TooLarge                 more than the limits allow
    ├── JobError                     the job did not happen or did not finish
    │   ├── NoProvider               nobody who offers it answers
    │   ├── TooExpensive             everybody asks more than the cap
    │   ├── Busy                     all slots and queues are full (``retry_after_s``)
    │   ├── ProviderGone             the provider vanished, before or in the middle
    │   └── ProviderFailed           the provider's engine broke or it broke the protocol
    ├── MoneyError                   money could not be moved or promised
    │   ├── Unfunded                 the wallet or the channel holds too little
    │   ├── PaymentRefused           the other side did not accept a voucher
    │   └── LedgerError              the ledger refused what would lose or invent money
    └── ChainError                   TON could not be reached or did not do what was asked

``code`` is the stable name for programs (OpenAI's ``error.code``, the ``code`` of job errors on the wire) and
``exit_code`` what the command line exits with.
"""

from __future__ import annotations


class CocoonError(Exception):
    """The root. The message is for a person: what happened, why, and what to do next."""

    code = "error"
    exit_code = 1


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


class PortBusy(ConfigError):
    """Somebody else listens on the address asked for."""

    code = "port_busy"


class InvalidRequest(CocoonError):
    """The request cannot be served as written."""

    code = "invalid_request"
    exit_code = 2

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class UnknownModel(InvalidRequest):
    """Nobody offers this model for this task."""

    code = "model_not_found"


class TooLarge(InvalidRequest):
    """More than the limits allow."""

    code = "too_large"


class JobError(CocoonError):
    """The job did not happen or did not finish; what was not delivered was not paid for."""

    code = "job"
    exit_code = 3


class NoProvider(JobError):
    """Nobody who offers it answers."""

    code = "no_provider"


class TooExpensive(JobError):
    """Everybody asks more than the cap."""

    code = "too_expensive"


class Busy(JobError):
    """All slots and queues are full; worth another try after ``retry_after_s`` seconds."""

    code = "busy"

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ProviderGone(JobError):
    """The provider vanished, before the job or in the middle of it."""

    code = "provider_gone"


class ProviderFailed(JobError):
    """The provider's engine broke, or the provider broke the protocol."""

    code = "provider_failed"


class MoneyError(CocoonError):
    """Money could not be moved or promised."""

    code = "money"
    exit_code = 4


class Unfunded(MoneyError):
    """The wallet or the channel holds too little."""

    code = "unfunded"


class PaymentRefused(MoneyError):
    """The other side did not accept a voucher, or stopped paying."""

    code = "payment_required"


class LedgerError(MoneyError):
    """The ledger refused what would lose or invent money."""

    code = "ledger"


class ChainError(CocoonError):
    """TON could not be reached, or did not do what was asked."""

    code = "chain"
    exit_code = 5
