"""The façade, the hardware report, the synthetic engine."""

from __future__ import annotations

import subprocess
import sys

import pytest

import compute
from compute import ChatRequest, EmbedRequest, Finished, Message, Segment, TaskError, TextDelta, TranscribeRequest, Unit

from compute import total  # isort: skip
from compute.hardware import Gpu, parse_smi, survey
from simulations.engines import SyntheticEngine


def test_every_name_of_the_facade_exists_once() -> None:
    assert len(set(compute.__all__)) == len(compute.__all__)
    assert all(hasattr(compute, name) for name in compute.__all__)


def test_importing_the_package_loads_no_heavy_dependency() -> None:
    check = (
        "import sys, compute; print([m for m in ('numpy', 'av', 'tokenizers', 'torch', 'httpx') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_hardware_report_has_this_machines_numbers() -> None:
    report = survey()
    assert 1 <= report.cores_usable <= report.cores
    assert 0 < report.memory_available <= report.memory_total
    assert report.cpu
    assert bool(report.gpus) != bool(report.gpu_note)
    assert report.to_dict()["cores"] == report.cores


def test_nvidia_smi_is_read_in_bytes() -> None:
    text = "NVIDIA GeForce RTX 4090, 24564, 24100, 550.54.14\n\nNVIDIA H200, 143771, 1000, 570.1\n"
    assert parse_smi(text) == (
        Gpu("NVIDIA GeForce RTX 4090", 24564 << 20, 24100 << 20, "550.54.14"),
        Gpu("NVIDIA H200", 143771 << 20, 1000 << 20, "570.1"),
    )
    with pytest.raises(ValueError, match=r"unpack|literal"):
        parse_smi("No devices were found")


def test_the_synthetic_engine_keeps_its_interval() -> None:
    now = [0.0]
    engine = SyntheticEngine(chunks=3, interval_s=0.5, clock=lambda: now[0])
    engine.submit(1, ChatRequest("synthetic", (Message("user", "hi"),)))
    seen = []
    for _ in range(7):
        engine.wake()  # no waiting in real time
        seen += [(now[0], e.text) for _, e in engine.step() if isinstance(e, TextDelta)]
        now[0] += 0.25
    assert seen == [(0.0, "word1 "), (0.5, "word2 "), (1.0, "word3 ")]


def test_the_synthetic_engine_transcribes_the_length_it_was_told() -> None:
    engine = SyntheticEngine()
    engine.submit(1, TranscribeRequest("synthetic", b"x", 4500))
    events = [event for _ in range(3) for _, event in engine.step()]
    assert [(e.start_ms, e.end_ms) for e in events if isinstance(e, Segment)] == [(0, 2000), (2000, 4000), (4000, 4500)]
    assert events[-1] == Finished("stop")
    assert total(e.units for e in events).get(Unit.AUDIO_MS) == 4500
    with pytest.raises(TaskError):
        engine.submit(2, EmbedRequest("synthetic", ("a",)))
