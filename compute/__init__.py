"""What is sold: typed tasks, units and prices, engines, and the scheduler that runs them.

Importing this package loads no engine and none of their packages.
"""

from compute.codec import check_request, event_from_wire, event_to_wire, request_from_wire, request_to_wire
from compute.engines.base import Capability, Engine, EngineFailure, EngineJobId, EngineUnavailable
from compute.estimate import estimate_usage
from compute.scheduler import ConsumerTooSlow, JobEvents, Load, Scheduler, SchedulerBusy
from compute.tasks import (
    ChatRequest,
    CompletionRequest,
    Embedding,
    EmbedRequest,
    Event,
    Finished,
    Message,
    RawDelta,
    Request,
    Sampling,
    Segment,
    Started,
    Task,
    TaskError,
    TextDelta,
    TranscribeRequest,
)
from compute.usage import NO_USAGE, Meter, Prices, Unit, Usage, total

__all__ = [
    "NO_USAGE",
    "Capability",
    "ChatRequest",
    "CompletionRequest",
    "ConsumerTooSlow",
    "EmbedRequest",
    "Embedding",
    "Engine",
    "EngineFailure",
    "EngineJobId",
    "EngineUnavailable",
    "Event",
    "Finished",
    "JobEvents",
    "Load",
    "Message",
    "Meter",
    "Prices",
    "RawDelta",
    "Request",
    "Sampling",
    "Scheduler",
    "SchedulerBusy",
    "Segment",
    "Started",
    "Task",
    "TaskError",
    "TextDelta",
    "TranscribeRequest",
    "Unit",
    "Usage",
    "check_request",
    "estimate_usage",
    "event_from_wire",
    "event_to_wire",
    "request_from_wire",
    "request_to_wire",
    "total",
]
