"""A run's result without a run: a small seeded market with a flash crowd, plausible in its shapes and in no number."""

from __future__ import annotations

import math
import random

from simulations.results import (
    Attacker,
    Happening,
    Job,
    Mark,
    Market,
    PolicyFigures,
    Provider,
    RunResult,
    Sample,
    Traffic,
)  # fmt: skip

HARDWARE = {"rtx-4090": (4, 90.0), "rtx-3060": (2, 40.0), "h100": (16, 110.0), "cpu": (1, 8.0)}
"""Slots, and units a second of one slot."""
PROTOCOLS = {"/cocoon/kad/1.0.0": 0.3, "/meshsub/1.1.0": 0.45, "/cocoon/market/1": 0.15, "/cocoon/jobs/1": 0.1}


def synthetic(
    seed: int = 1, *, jobs: int = 600, samples: int = 90, duration_s: float = 900.0, providers: int = 24
) -> RunResult:
    """The result of a run that held, with every part of a report in it."""
    rng = random.Random(seed)
    sellers = _providers(rng, providers, duration_s)
    bought = _jobs(rng, jobs, duration_s, len(sellers))
    return RunResult(
        scenario="flash-crowd",
        title="Demand doubles within a minute",
        seed=seed,
        commit="0123abcd",
        duration_s=duration_s,
        virtual_s=duration_s,
        complete=True,
        digest=f"{rng.getrandbits(256):064x}",
        events=jobs * 40,
        about="A thousand people read the same news and all ask at once. The price has to rise until those who can "
        "wait do, and to fall again when they are gone.",
        wall_s=duration_s / 11.3,
        cpu_s=duration_s / 12.0,
        rss_mib=412.5,
        warmup_s=60.0,
        samples=_samples(rng, bought, samples, duration_s, len(sellers)),
        jobs=bought,
        providers=sellers,
        clients=200,
        attackers=(
            Attacker("sybil-cornering", 20, 310_000_000, 1_900_000_000, {"jobs_failed": 3.0, "price_up": 0.014}),
            Attacker("non-paying-clients", 8, 4_200_000, 3_900_000, {"unpaid_ton": 0.0042}, "within the credit window"),
        ),
        traffic=tuple(
            Traffic(name, round(part * jobs * 60), round(part * jobs * 60 * 410)) for name, part in PROTOCOLS.items()
        ),
        happenings=(
            Happening(duration_s / 3, "demand × 2"),
            Happening(duration_s / 3 + 2, "sybil-cornering: 20 nodes join"),
            Happening(2 * duration_s / 3, "demand back to normal"),
        ),
        marks=(
            Mark("efficiency, steady", 0.968, True, at_least=0.96),
            Mark("price settles within s", 38.0, True, at_most=45.0),
        ),
        efficiency={"cocoon": 0.58, "ours": 0.966, "golem": 0.781},
        losses={"queue": 0.018, "sharing": 0.012, "idle": 0.005, "outside": -0.001},
        policies=(
            PolicyFigures("ours", "ab", 560, 540, 8, 12, 0.966, {"queue": 0.018, "sharing": 0.012, "idle": 0.005}),
            PolicyFigures("golem", "cd", 560, 450, 8, 102, 0.781, {"no_room": 0.2, "sharing": 0.019}),
        ),
        chain_fees_nanoton=1_234_567_890,
        warnings={"provider_silent": 14, "quote_late": 3},
    )


def load(at_s: float, duration_s: float) -> float:
    """Demand as a share of supply: twice as much in the middle third."""
    rise = 1 / (1 + math.exp(-(at_s - duration_s / 3) / (duration_s / 90)))
    fall = 1 / (1 + math.exp(-(at_s - 2 * duration_s / 3) / (duration_s / 90)))
    return 0.6 + 0.6 * (rise - fall)


def _providers(rng: random.Random, number: int, duration_s: float) -> tuple[Provider, ...]:
    made = []
    for at in range(number):
        hardware = list(HARDWARE)[at % len(HARDWARE)]
        slots, speed = HARDWARE[hardware]
        up_s = duration_s * rng.uniform(0.7, 1.0)
        busy_s = up_s * slots * rng.uniform(0.5, 0.95)
        earned = round(busy_s * speed * 180 * rng.uniform(0.8, 1.2))
        made.append(
            Provider(
                at, "home", hardware, "sybil-cornering" if at % 12 == 11 else "honest", slots, speed, earned,
                round(earned * rng.uniform(0.4, 0.9 if hardware != "cpu" else 1.4)), 6_000_000, round(busy_s / 4),
                at % 3, busy_s, up_s,
            )
        )  # fmt: skip
    return tuple(made)


def _jobs(rng: random.Random, number: int, duration_s: float, providers: int) -> tuple[Job, ...]:
    made = []
    for at_s in sorted(rng.uniform(0, duration_s) for _ in range(number)):
        crowded = load(at_s, duration_s)
        task = "chat" if rng.random() < 0.8 else "transcribe"
        wait_s = rng.lognormvariate(-0.6 if task == "chat" else 0.5, 0.5) * (1 + 3 * max(0.0, crowded - 0.9))
        drawn = rng.random()
        outcome = "failed" if drawn < 0.01 else "refused" if drawn < 0.01 + 0.06 * max(0.0, crowded - 0.8) else "done"
        if outcome == "done" and at_s + wait_s + 5 > duration_s:
            outcome = "running"
        served = outcome in ("done", "failed")
        error = {"failed": "provider_gone", "refused": "everybody was dearer than the cap"}.get(outcome, "")
        made.append(
            Job(
                rng.randrange(200), "evening", task, at_s, outcome, rng.randrange(providers) if served else None,
                at_s + wait_s if served else None, at_s + wait_s + 5 if served else None,
                2 if rng.random() < 0.03 else 1, 250 if served else 0, 45_000 if served else 0, 60_000, error,
            )
        )  # fmt: skip
    return tuple(made)


def _samples(
    rng: random.Random, jobs: tuple[Job, ...], number: int, duration_s: float, providers: int
) -> tuple[Sample, ...]:
    made = []
    price = 150e6
    asked = dict.fromkeys(("asked", "done", "failed", "refused", "recovered"), 0)
    pending = list(jobs)
    for at in range(1, number + 1):
        at_s = duration_s * at / number
        crowded = load(at_s, duration_s)
        price *= math.exp(0.08 * (crowded - 0.8) * 90 / number + rng.gauss(0, 0.004))
        price = min(max(price, 120e6), 320e6)
        while pending and pending[0].asked_at_s <= at_s:
            job = pending.pop(0)
            asked["asked"] += 1
            asked[job.outcome] = asked.get(job.outcome, 0) + 1
            asked["recovered"] += job.outcome == "done" and job.tries > 1
        made.append(
            Sample(
                at_s, providers - (at % 3), 200 - (at % 5),
                (_chat(rng, price, crowded), _voice(rng, price, crowded, at)),
                asked["asked"], asked["done"], asked["failed"], asked["refused"], asked["recovered"],
                80 + at % 20, 40 * 10**9 + at * 10**7, round(2e6 * crowded * rng.uniform(0.5, 1.5)),
                at * 3 * 10**6, asked["asked"] * 60, asked["asked"] * 60 * 410,
            )
        )  # fmt: skip
    return tuple(made)


def _chat(rng: random.Random, price: float, crowded: float) -> Market:
    busy = round(92 * min(1.0, crowded * rng.uniform(0.9, 1.05)))
    waiting = round(40 * max(0.0, crowded - 0.95))
    return Market(
        "chat", "llama-3-8b", 92, busy, waiting, price * 0.85, price, price * 1.3, price * rng.uniform(0.95, 1.02)
    )


def _voice(rng: random.Random, price: float, crowded: float, at: int) -> Market:
    busy = round(20 * min(1.0, 0.5 * crowded * rng.uniform(0.7, 1.2)))
    paid = 21e6 * rng.uniform(0.98, 1.02) if at % 4 else None
    return Market("transcribe", "whisper-large-v3", 20, busy, 0, 18e6, 21e6, 26e6 + price / 100, paid)
