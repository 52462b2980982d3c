"""Jobs: requests and their answers through a tunnel, metered, paid for and receipted on both sides.

A provider runs a :class:`JobServer` and hands it every tunnel; a client runs jobs with :func:`open_job_client` over a
tunnel of its own. Protocol: docs/protocols/jobs.md; receipts: docs/protocols/receipt.md.
"""

from overlay.jobs.book import AgreementBook
from overlay.jobs.channel_client import ChannelClient, load_payer_channel
from overlay.jobs.client import JobClient, JobRun, open_job_client
from overlay.jobs.errors import (
    AgreementEnded,
    ChannelUnusable,
    ErrorCode,
    JobError,
    JobFailed,
    Overcharged,
    ProtocolError,
    Refused,
    RiskCapReached,
)
from overlay.jobs.metering import JobMeter, most_it_can_cost
from overlay.jobs.payer import PayerChannel
from overlay.jobs.receipt import Receipt, SignedReceipt, countersign, countersigned_by, sign_receipt
from overlay.jobs.server import JobReport, JobServer
from overlay.jobs.serving import Submit

__all__ = [
    "AgreementBook",
    "AgreementEnded",
    "ChannelClient",
    "ChannelUnusable",
    "ErrorCode",
    "JobClient",
    "JobError",
    "JobFailed",
    "JobMeter",
    "JobReport",
    "JobRun",
    "JobServer",
    "Overcharged",
    "PayerChannel",
    "ProtocolError",
    "Receipt",
    "Refused",
    "RiskCapReached",
    "SignedReceipt",
    "Submit",
    "countersign",
    "countersigned_by",
    "load_payer_channel",
    "most_it_can_cost",
    "open_job_client",
    "sign_receipt",
]
