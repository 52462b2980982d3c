"""Bounds of file transfer, each with its reason."""

from __future__ import annotations

PIECE_BYTES = 4 << 20
"""What is checked, and at worst fetched again, as a whole: a few milliseconds of hashing, and 8 MiB of hashes a TiB."""

MAX_FILE_BYTES = 1 << 40
"""Longest file: the largest published weights come in parts far below a TiB. Fetchers set their own, lower limit."""

MAX_PIECES = MAX_FILE_BYTES // PIECE_BYTES
"""So a manifest is at most 8 MiB and a request's bitmap 32 KiB."""

MAX_HEADER = 256
"""A request and its answer: a version, a root, a size."""

MAX_SHARED = 4_096
"""Files that one library shares; each costs its manifest in memory."""
