"""A model engine: serves jobs at the pace of a class of hardware, in virtual time, without a model.

It batches continuously. A prompt is read at once and alone, in the order of arrival, while decoding waits (as servers
without chunked prefill do); then its job joins the batch. A step of the batch gives every job in it one unit, so one
counter of steps says how far all of them are: who joins at 1000 steps and wants 250 tokens is done at 1250, whatever
the batch does meanwhile. Only the time of a step changes with the batch, and nothing is recomputed for each job.

Events come in few pieces (:data:`EVENTS_PER_JOB`), each at the moment at which its last unit is made.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from compute.engines.base import Capability, EngineFailure, EngineJobId
from compute.limits import DEFAULT_MAX_TOKENS
from compute.tasks import (
    ChatRequest,
    CompletionRequest,
    EmbedRequest,
    Event,
    Finished,
    Request,
    Segment,
    Started,
    TaskError,
    TextDelta,
    TranscribeRequest,
)
from compute.usage import Meter, Unit, Usage
from simulations.world.conduct import HONEST, Conduct, Ending
from simulations.world.hardware import Offering
from simulations.world.wording import answer_text, garbage_text, read_prompt

EVENTS_PER_JOB = 12
"""Beginning and end included. A real engine sends an event a token, but a receiver sees those that came together as one
list, and what a job does to the market is the same."""

LEAST_PIECE = 4
"""Units of an event but the first and the last: short answers come in fewer pieces."""

LEAST_SEGMENT_MS = 2_000
"""The same of speech."""

MOST_PIECE_S = 20.0
"""On a slow machine pieces are smaller and more, so that none takes longer than this with all slots busy: a client
gives up a job of which it hears nothing for two minutes, and a real engine is never so silent."""

_EPSILON_S = 1e-6


@dataclass(eq=False, slots=True)
class _Job:
    id: EngineJobId
    total: int
    """Units that it will have; the first token comes with the prompt."""
    most: int
    """Units that may be claimed."""
    prompt: int
    cut: bool
    """Whether its limit ends it."""
    speech: bool
    piece: int
    ending: Ending
    ends_at: int
    """Units after which it ends as ``ending`` says."""
    left_s: float = 0.0
    """Of prefill."""
    made: int = 0
    began: float = 0.0
    """The count of steps at which it had made nothing."""
    gone: bool = False


class Card:
    """One machine that serves several models, each with an engine: those that have work share its time equally."""

    def __init__(self) -> None:
        self._engines: list[ModelEngine] = []

    def join(self, engine: ModelEngine) -> None:
        """Another model is served here."""
        self._engines.append(engine)

    def changed(self) -> None:
        """One of the engines has begun to work, or stopped."""
        busy = max(1, sum(engine.working for engine in self._engines))
        for engine in self._engines:
            engine.share(busy)


class ModelEngine:
    """Serves one model as ``offering`` says. ``clock`` is virtual time in seconds; ``conduct`` is how it misbehaves.
    Engines of one machine are given one ``card``."""

    def __init__(
        self,
        offering: Offering,
        clock: Callable[[], float],
        *,
        conduct: Conduct = HONEST,
        card: Card | None = None,
        events_per_job: int = EVENTS_PER_JOB,
    ) -> None:
        assert events_per_job >= 4, "a beginning, a first and a second piece, and an end"
        self.name = f"{offering.model} on {offering.hardware}"
        self.offering = offering
        self.conduct = conduct
        self.load_s = offering.load_s
        self.on_change: Callable[[], None] = _nobody
        self.made = Meter()
        """Work that was really done, whatever was claimed: what it cost follows from this."""
        self.finished = 0
        """Jobs that ran to their end."""
        self.busy_s = 0.0
        """Time with at least one job."""
        self.slot_s = 0.0
        """The same, times the jobs there were."""
        self.working = False
        """Whether it computes, as of the last call."""
        self._slowdown, self._sharing, self._stretch = 1.0, 1, 1.0
        """How many times longer everything takes: for itself, for other models' work, and together."""
        self._clock, self._pieces = clock, events_per_job - 3
        self._jobs: dict[EngineJobId, _Job] = {}
        self._outside: dict[EngineJobId, _Job] = {}
        """Those that the machine has no real slot for: only who claims more slots than there are has any."""
        self._prompts: dict[EngineJobId, _Job] = {}
        self._batch = 0
        self._steps = 0.0
        self._due: list[tuple[float, int, _Job]] = []
        """When jobs have their next piece, in steps; cancelled jobs are left in it until they come up."""
        self._number = 0
        self._at_s = 0.0
        self._out: list[tuple[EngineJobId, Event | Exception]] = []
        self._card = card
        if card is not None:
            card.join(self)

    # --- the engine's interface ------------------------------------------------------------------------------------

    def load(self) -> None:
        """Nothing to load; the driver waits :attr:`load_s`."""
        self._at_s = self._clock()

    def capabilities(self) -> Sequence[Capability]:
        """What it claims to serve: the truth, unless its conduct says otherwise."""
        offering, conduct = self.offering, self.conduct
        slots = max(1, round(offering.slots * conduct.claimed_slots))
        speed = offering.units_per_s * conduct.claimed_speed
        return [
            Capability(task, offering.model, slots, offering.context, speed, note="simulated: no model behind it")
            for task in offering.tasks
        ]

    def submit(self, job: EngineJobId, request: Request) -> None:
        """Take a job. Raises :class:`~compute.tasks.TaskError` when it is for another model or task, or when its prompt
        leaves no room for an answer."""
        offering = self.offering
        if request.task not in offering.tasks or request.model != offering.model or isinstance(request, EmbedRequest):
            raise TaskError(f"{self.name} does not serve {request.model!r} for {request.task}", param="model")
        self._advance()
        self._jobs[job] = taken = self._take(job, request)
        if len(self._jobs) - len(self._outside) > offering.slots:
            self._outside[job] = taken
        else:
            self._prompts[job] = taken
        self._note_work()

    def step(self) -> list[tuple[EngineJobId, Event | Exception]]:
        """What has happened until now. Never waits."""
        self._advance()
        self._note_work()
        out, self._out = self._out, []
        return out

    def due_s(self) -> float:
        """When there is something to tell, by the engine's clock; infinity when a command has to come first."""
        if self._out:
            return self._at_s
        if self._prompts:
            return self._at_s + next(iter(self._prompts.values())).left_s * self._stretch
        return self._next_piece_s()

    def cancel(self, job: EngineJobId) -> None:
        """Drop a job."""
        self._advance()
        if (known := self._jobs.get(job)) is not None:
            self._leave(known)
            self._out = [item for item in self._out if item[0] != job]
        self._note_work()

    def close(self) -> None:
        """Drop all jobs."""
        self._advance()
        for job in list(self._jobs.values()):
            self._leave(job)
        self._out.clear()
        self._note_work()

    # --- the machine -----------------------------------------------------------------------------------------------

    def slow_down(self, factor: float) -> None:
        """From now on everything takes ``factor`` times as long as it should, as on a machine that its owner uses or
        that throttles; 1 is as it should be."""
        self._slowdown = factor
        self._restretch()

    def share(self, engines: int) -> None:
        """From now on so many engines of the machine work."""
        if engines != self._sharing:
            self._sharing = engines
            self._restretch()

    def _restretch(self) -> None:
        self._advance()
        self._stretch = self._slowdown * self._sharing
        self.on_change()

    def _note_work(self) -> None:
        working = bool(self._prompts or self._batch)
        if working is not self.working:
            self.working = working
            if self._card is not None:
                self._card.changed()

    # --- jobs ------------------------------------------------------------------------------------------------------

    def _take(self, job: EngineJobId, request: ChatRequest | CompletionRequest | TranscribeRequest) -> _Job:
        conduct = self.conduct
        prompt, cut = 0, False
        if isinstance(request, TranscribeRequest):
            total = most = request.duration_ms
            piece = max(LEAST_SEGMENT_MS, -(-total // (self._pieces + 1)))
        else:
            prompt, total = read_prompt(request)
            context = self.offering.context
            most = min(request.sampling.max_tokens or DEFAULT_MAX_TOKENS, context - prompt)
            if most < 1:
                raise TaskError(f"a prompt of {prompt} tokens fills the context of {context}", param="messages")
            cut, total = most < total, min(most, total)
            piece = max(LEAST_PIECE, -(-(total - 1) // self._pieces))
        ending = conduct.next_ending()
        ends_at = total if ending is Ending.FINISHES else max(1, math.ceil(total * conduct.ends_after))
        left_s = prompt * self.offering.pace.prompt_token_s / conduct.haste
        piece = min(piece, max(1, int(MOST_PIECE_S * self.offering.units_per_s)))
        speech = isinstance(request, TranscribeRequest)
        return _Job(job, total, most, prompt, cut, speech, piece, ending, ends_at, left_s=left_s)

    def _leave(self, job: _Job) -> None:
        job.gone = True
        del self._jobs[job.id]
        if self._outside.pop(job.id, None) is not None:
            return
        if self._prompts.pop(job.id, None) is None and job.made < job.ends_at:
            self._batch -= 1
        if self._outside:
            following = next(iter(self._outside))
            self._prompts[following] = self._outside.pop(following)

    # --- time ------------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Let happen what happens until now: prompts first, then steps of the batch."""
        now = self._clock()
        while True:
            if self._prompts:
                job = next(iter(self._prompts.values()))
                until = self._at_s + job.left_s * self._stretch
                if until > now + _EPSILON_S:
                    job.left_s -= max(0.0, now - self._at_s) / self._stretch
                    self._pass(now)
                    return
                self._pass(until)
                self._read(job)
                continue
            until = self._next_piece_s()
            if until > now + _EPSILON_S:
                if self._batch:
                    self._steps += max(0.0, now - self._at_s) / self._step_s()
                self._pass(now)
                return
            self._pass(until)
            self._steps, _, job = heapq.heappop(self._due)
            self._make(job)

    def _pass(self, until: float) -> None:
        # A piece may come up to a microsecond ahead of the clock, by the rounding of its sums.
        passed = max(0.0, until - self._at_s)
        if self._jobs:
            self.busy_s += passed
            self.slot_s += passed * len(self._jobs)
        self._at_s = max(self._at_s, until)

    def _step_s(self) -> float:
        return self.offering.pace.step_s(self._batch) * self._stretch / self.conduct.haste

    def _next_piece_s(self) -> float:
        due = self._due
        while due and due[0][2].gone:
            heapq.heappop(due)
        return self._at_s + (due[0][0] - self._steps) * self._step_s() if due else math.inf

    # --- work ------------------------------------------------------------------------------------------------------

    def _read(self, job: _Job) -> None:
        """The prompt is read, which makes the first token; of speech nothing is made yet."""
        del self._prompts[job.id]
        if job.speech:
            self._out.append((job.id, Started()))
        else:
            self._out.append((job.id, Started(Usage.of(Unit.PROMPT, job.prompt))))
            if not self.conduct.garbage:
                self.made.add(Usage.of(Unit.PROMPT, job.prompt))
        self._batch += 1
        if job.speech:
            job.began = self._steps
            self._await(job)
        else:
            job.began = self._steps - 1
            self._tell(job, 1)

    def _await(self, job: _Job) -> None:
        """Note when its next piece is made. A last one that would be small goes with the one before."""
        upto = job.made + job.piece
        if upto + job.piece // 2 > job.ends_at:
            upto = job.ends_at
        self._number += 1
        heapq.heappush(self._due, (job.began + upto, self._number, job))

    def _make(self, job: _Job) -> None:
        self._tell(job, round(self._steps - job.began) - job.made)

    def _tell(self, job: _Job, units: int) -> None:
        """``units`` more are made."""
        event: Event
        start = job.made
        job.made += units
        conduct = self.conduct
        if job.speech:
            event = Segment(answer_text(-(-units // 400)), start, job.made, Usage({Unit.AUDIO_MS: units}))
            self.made.add(Usage({Unit.AUDIO_MS: units}))
        else:
            event = _delta(units, conduct.claimed(start, units, job.most), conduct.garbage)
            if not conduct.garbage:
                self.made.add(Usage.of(Unit.COMPLETION, units))
        self._out.append((job.id, event))
        if job.made >= job.ends_at:
            self._end(job)
        else:
            self._await(job)

    def _end(self, job: _Job) -> None:
        self._batch -= 1
        if job.ending is Ending.STALLS:
            return  # it keeps its slot and says nothing more
        if job.ending is Ending.FAILS:
            self._out.append((job.id, EngineFailure("the engine failed: out of memory")))
        else:
            self._out.append((job.id, Finished("length" if job.cut else "stop")))
            self.finished += 1
        self._leave(job)


def _nobody() -> None:
    """Nobody drives the engine yet."""


@lru_cache(maxsize=4096)
def _delta(made: int, claimed: int, garbage: bool) -> TextDelta:
    """Events hold no more than the request says, so jobs share them."""
    text = garbage_text(made) if garbage else answer_text(made)
    return TextDelta(text, Usage.of(Unit.COMPLETION, claimed))
