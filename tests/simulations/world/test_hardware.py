"""Hardware classes: speeds near published ones, laws that any machine obeys, and costs that follow from them."""

from __future__ import annotations

import pytest

from compute import Task, Unit, Usage
from simulations.world.hardware import HARDWARE, MODELS, Unfit, fits, offering

PAIRS = [(hardware, model) for hardware in HARDWARE for model in MODELS if fits(hardware, model)]
each_pair = pytest.mark.parametrize(("hardware", "model"), PAIRS)


@pytest.mark.parametrize(
    ("hardware", "model", "decode", "prefill"),
    [
        # llama.cpp, May 2024 and December 2023: 8B in 16 bits; Llama 2 70B in 4 bits.
        ("rtx-4090", "llama-3-8b", 54.3, 9056),
        ("a100-80g", "llama-3-70b", 25.7, 612),
    ],
)
def test_speeds_are_near_those_that_were_published(hardware: str, model: str, decode: float, prefill: float) -> None:
    pace = offering(hardware, model).pace
    assert 1 / pace.step_s(1) == pytest.approx(decode, rel=1 / 3)
    # What serving programs reach on the large cards is above llama.cpp's figure.
    assert prefill * 2 / 3 < 1 / pace.prompt_token_s < prefill * 5 / 3


@each_pair
def test_more_jobs_at_once_are_each_slower_and_together_faster(hardware: str, model: str) -> None:
    pace = offering(hardware, model).pace
    for batch in range(1, 64):
        assert pace.step_s(batch + 1) >= pace.step_s(batch)
        assert (batch + 1) / pace.step_s(batch + 1) >= batch / pace.step_s(batch) * (1 - 1e-9)


@each_pair
def test_what_is_promised_is_what_the_slowest_job_gets(hardware: str, model: str) -> None:
    offer = offering(hardware, model)
    assert offer.units_per_s * offer.pace.step_s(offer.slots) == pytest.approx(1)
    assert 1 <= offer.slots <= HARDWARE[hardware].slots
    assert offer.load_s > 0


@each_pair
def test_costs_are_those_of_the_machine_for_the_time_that_the_work_takes(hardware: str, model: str) -> None:
    offer = offering(hardware, model)
    unit = Unit.AUDIO_MS if Task.TRANSCRIBE in offer.tasks else Unit.COMPLETION
    hour = offer.cost_nanoton(Usage({unit: int(3600 * offer.most_units_per_s)}))
    # A TON is taken for three dollars.
    assert hour == pytest.approx(float(HARDWARE[hardware].usd_per_h) / 3 * 1e9, rel=0.01)


def test_better_cards_work_for_less() -> None:
    costs = [offering(name, "llama-3-8b").unit_costs.per_million[Unit.COMPLETION] for name in HARDWARE]
    cpu, small, large, _, newest = costs
    assert cpu > small > large > newest


def test_a_model_that_does_not_fit_is_refused_and_so_are_unknown_names() -> None:
    assert not fits("rtx-4090", "llama-3-70b")
    assert fits("h100", "llama-3-70b")
    with pytest.raises(Unfit, match="24 GB of rtx-4090"):
        offering("rtx-4090", "llama-3-70b")
    with pytest.raises(Unfit, match=r"rtx-9999.*there are cpu-server"):
        fits("rtx-9999", "llama-3-8b")
    with pytest.raises(Unfit, match=r"gpt-9.*there are llama"):
        fits("h100", "gpt-9")
    with pytest.raises(Unfit, match="at least one"):
        offering("h100", "llama-3-8b", 0)


def test_slots_beyond_what_memory_holds_are_not_to_be_had() -> None:
    assert offering("rtx-4090", "llama-3-8b", 4).slots == 4
    assert offering("rtx-4090", "llama-3-8b", 1000).slots == 20
