"""Audio files to samples: the one decoder that client and provider share, so that both count the same milliseconds.

The rule of the length: the first audio stream, decoded whole, resampled to 16 kHz mono; the number of samples in
milliseconds, rounded up. The container is recognised by its first bytes and opened as nothing else: left to guess,
FFmpeg would also take playlists, which name other files and addresses to open.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from compute import limits
from compute.tasks import TaskError

SAMPLE_RATE = 16_000
"""Hz, of everything behind the decoder: what speech models are trained on."""

_MIN_SOURCE_HZ, _MAX_SOURCE_HZ = 4_000, 384_000
"""Rates of real files. A file that claims 1 Hz would grow sixteen thousand fold when resampled."""

WANTED = "send OGG/Opus, WAV, MP3, M4A, FLAC or WebM"


def container_format(data: bytes) -> str | None:
    """FFmpeg's name of the container that ``data`` begins with, ``None`` when it is not one of those served."""
    if data[:4] == b"OggS":
        return "ogg"
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "wav"
    if data[:4] == b"fLaC":
        return "flac"
    if data[4:8] == b"ftyp":
        return "mp4"
    if data[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    if data[:3] == b"ID3":
        return "mp3"
    if len(data) > 1 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0:
        # MPEG sync word; layer bits 00 mean ADTS, that is AAC (ISO 13818-7 §6.2).
        return "aac" if data[1] & 0x06 == 0 else "mp3"
    return None


def decode_chunks(data: bytes, *, max_ms: int = limits.MAX_AUDIO_MS) -> Iterator[NDArray[np.int16]]:
    """Decode a file piece by piece: int16 mono samples at :data:`SAMPLE_RATE`, so that length costs no memory.

    Raises :class:`TaskError` when the file cannot be decoded or lasts longer than ``max_ms``.
    """
    import av  # a heavy import (FFmpeg), which nodes that only chat do without

    container = container_format(data)
    if container is None:
        raise TaskError(f"the audio could not be decoded: unknown file type; {WANTED}", param="file")
    samples, max_samples = 0, max_ms * SAMPLE_RATE // 1000
    try:
        with av.open(io.BytesIO(data), "r", format=container, metadata_errors="replace") as file:
            if not file.streams.audio:
                raise TaskError(f"the audio could not be decoded: no audio inside; {WANTED}", param="file")
            stream = file.streams.audio[0]
            if not _MIN_SOURCE_HZ <= (stream.rate or 0) <= _MAX_SOURCE_HZ:
                raise TaskError(f"the audio could not be decoded: a sample rate of {stream.rate} Hz", param="file")
            resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
            for frame in _with_end(file.decode(stream)):
                for resampled in resampler.resample(frame):
                    chunk = resampled.to_ndarray()[0]
                    samples += chunk.size
                    if samples > max_samples:
                        limit = f"{max_ms // 1000} seconds"
                        raise TaskError(f"the audio is longer than {limit}: send it in parts", param="file")
                    yield chunk
    except (av.FFmpegError, ValueError, EOFError) as error:
        if isinstance(error, TaskError):
            raise
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise TaskError(f"the audio could not be decoded: {reason}; {WANTED}", param="file") from error
    if not samples:
        raise TaskError(f"the audio could not be decoded: it holds no samples; {WANTED}", param="file")


_T = TypeVar("_T")


def _with_end(frames: Iterator[_T]) -> Iterator[_T | None]:
    """The frames, then ``None``, which makes the resampler give its last samples."""
    yield from frames
    yield None


def milliseconds(samples: int) -> int:
    """The length of ``samples`` at :data:`SAMPLE_RATE`, rounded up."""
    return -(-samples * 1000 // SAMPLE_RATE)


DURATION_TOLERANCE_MS = 250
"""By how much a client's measure may differ from ours: versions of the decoder trim codec delay differently."""


def payable_ms(data: bytes, claimed_ms: int) -> tuple[int, int]:
    """What a file lasts and what is billed for it (ms): the measured length, never more than the client's claim.

    Raises :class:`TaskError` when the claim is wrong by more than :data:`DURATION_TOLERANCE_MS`.
    """
    measured_ms = probe_duration_ms(data)
    if abs(measured_ms - claimed_ms) > DURATION_TOLERANCE_MS:
        raise TaskError(f"duration_ms says {claimed_ms}, but the audio lasts {measured_ms} ms", param="duration_ms")
    return measured_ms, min(measured_ms, claimed_ms)


def probe_duration_ms(data: bytes, *, max_ms: int = limits.MAX_AUDIO_MS) -> int:
    """The length in milliseconds that is paid for, by decoding the file. Raises :class:`TaskError`."""
    return milliseconds(sum(chunk.size for chunk in decode_chunks(data, max_ms=max_ms)))
