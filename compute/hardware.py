"""What this machine has: processor, memory, graphics cards. Only what was really read; unknown stays empty."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

NVIDIA_SMI_TIMEOUT_S = 10.0
"""A wedged driver lets ``nvidia-smi`` hang."""


@dataclass(frozen=True)
class Gpu:
    """One graphics card; memory in bytes, ``driver`` the driver's version."""

    name: str
    memory_total: int
    memory_free: int
    driver: str


@dataclass(frozen=True)
class Hardware:
    """A machine. ``cores_usable`` respects CPU affinity; memory in bytes. ``gpu_note`` says why no GPU is listed."""

    cpu: str
    cores: int
    cores_usable: int
    memory_total: int
    memory_available: int
    gpus: tuple[Gpu, ...]
    gpu_note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def survey() -> Hardware:
    """Look at this machine; blocks for as long as the driver takes (call it in a thread)."""
    memory = psutil.virtual_memory()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus, note = _gpus()
    return Hardware(_cpu_name(), os.cpu_count() or 1, usable, memory.total, memory.available, gpus, note)


def _cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpus() -> tuple[tuple[Gpu, ...], str]:
    """NVIDIA's cards by its library (package ``nvidia-ml-py``), else by ``nvidia-smi``."""
    try:
        import pynvml  # type: ignore[import-not-found]  # optional: nvidia-ml-py
    except ImportError:
        return _gpus_by_smi()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return (), f"no NVIDIA driver: {error}"
    try:
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        gpus = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            gpus.append(Gpu(_text(pynvml.nvmlDeviceGetName(handle)), int(memory.total), int(memory.free), driver))
        return tuple(gpus), "" if gpus else "the NVIDIA driver lists no card"
    except pynvml.NVMLError as error:
        return (), f"the NVIDIA driver failed: {error}"
    finally:
        pynvml.nvmlShutdown()


def _gpus_by_smi() -> tuple[tuple[Gpu, ...], str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return (), "no NVIDIA driver found (nvidia-smi is not on the PATH)"
    query = [program, "--query-gpu=name,memory.total,memory.free,driver_version", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S, check=True)
        return parse_smi(answer.stdout), ""
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return (), f"nvidia-smi failed: {error}"


def parse_smi(text: str) -> tuple[Gpu, ...]:
    """Read ``nvidia-smi``'s CSV of name, memory.total, memory.free (MiB) and driver_version; ``ValueError`` if odd."""
    gpus = []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, total, free, driver = (field.strip() for field in line.rsplit(",", 3))
        gpus.append(Gpu(name, int(total) << 20, int(free) << 20, driver))
    return tuple(gpus)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
