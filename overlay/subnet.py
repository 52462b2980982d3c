"""A subnet: its id, and for a private one the key without which nothing of it is seen.

The subnet file is one small text that members hand to each other like a password:

    cocoon-subnet: 1
    name: friends
    id: friends-5f3a9c21
    bootstrap: /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW…      (any number of lines)

    /key/swarm/psk/1.0.0/
    /base16/
    <64 hexadecimal digits>

From the line `/key/swarm/psk/1.0.0/` on it is a kubo `swarm.key` (libp2p pnet), so that other libp2p implementations
read the same key. The tunnel's psk is derived from it, with a label of its own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from overlay.errors import SubnetError

_SWARM_KEY_HEADER = ("/key/swarm/psk/1.0.0/", "/base16/")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,14}")
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,23}")
"""An id travels in every capacity record, which has room for 24 characters."""
MAX_FILE_BYTES = 16_384
MAX_BOOTSTRAPS = 64


@dataclass(frozen=True)
class Subnet:
    """Which network a node belongs to. ``swarm_key`` (32 bytes) is ``None`` in the public one."""

    id: str
    name: str = ""
    swarm_key: bytes | None = field(default=None, repr=False)
    bootstrap: tuple[str, ...] = ()

    @property
    def private(self) -> bool:
        """Whether a key is needed to take part."""
        return self.swarm_key is not None

    @property
    def tunnel_psk(self) -> bytes | None:
        """The 32-byte psk of `IKpsk2` tunnels, derived from the swarm key; ``None`` in the public network."""
        if self.swarm_key is None:
            return None
        return hashlib.blake2b(b"cocoon tunnel psk 1\0" + self.id.encode(), key=self.swarm_key, digest_size=32).digest()

    def to_text(self) -> str:
        """The subnet file."""
        if self.swarm_key is None:
            raise SubnetError("the public network needs no subnet file")
        head = [
            "cocoon-subnet: 1",
            f"name: {self.name}",
            f"id: {self.id}",
            *(f"bootstrap: {a}" for a in self.bootstrap),
        ]
        return "\n".join([*head, "", *_SWARM_KEY_HEADER, self.swarm_key.hex(), ""])


PUBLIC = Subnet("main")
"""The public network."""


def create_subnet(name: str, bootstrap: tuple[str, ...], entropy: Callable[[int], bytes]) -> Subnet:
    """Make a private subnet with a fresh key. Raises :class:`SubnetError` for a name that is not a short label."""
    if not _NAME.fullmatch(name):
        raise SubnetError(f"{name!r} is no subnet name: use up to 15 small letters, digits and hyphens")
    return Subnet(f"{name}-{entropy(4).hex()}", name, entropy(32), bootstrap)


def parse_subnet(text: str, source: str) -> Subnet:
    """Parse a subnet file. Raises :class:`SubnetError`, whose message names ``source`` and the line at fault."""
    lines = [line.strip() for line in text.splitlines()]
    if not lines or lines[0] != "cocoon-subnet: 1":
        raise SubnetError(f"{source} is no subnet file: its first line should be 'cocoon-subnet: 1'")
    values: dict[str, str] = {}
    bootstrap: list[str] = []
    rest: list[str] = []
    for number, line in enumerate(lines[1:], 2):
        if rest or line == _SWARM_KEY_HEADER[0]:
            rest.append(line)
            continue
        if not line or line.startswith("#"):
            continue
        key, separator, value = line.partition(": ")
        if key == "bootstrap" and separator and value.startswith("/") and len(bootstrap) < MAX_BOOTSTRAPS:
            bootstrap.append(value.strip())
        elif key in ("name", "id") and separator and key not in values:
            values[key] = value.strip()
        else:
            raise SubnetError(f"{source}, line {number}: {line[:80]!r} is not understood")
    key_lines = [line for line in rest if line]
    if (
        len(key_lines) != 3
        or tuple(key_lines[:2]) != _SWARM_KEY_HEADER
        or not re.fullmatch(r"[0-9a-f]{64}", key_lines[2])
    ):
        raise SubnetError(f"{source}: the swarm key at its end is missing or damaged; ask for the file again")
    if not _ID.fullmatch(values.get("id", "")) or values["id"] == PUBLIC.id:
        raise SubnetError(f"{source}: the id is missing or damaged; ask for the file again")
    return Subnet(values["id"], values.get("name", ""), bytes.fromhex(key_lines[2]), tuple(bootstrap))


def load_subnet(path: Path | None) -> Subnet:
    """The subnet in file ``path``, or the public network for ``None``. Raises :class:`SubnetError`."""
    if path is None:
        return PUBLIC
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise SubnetError(f"{path} is too large for a subnet file")
        return parse_subnet(path.read_text("ascii"), str(path))
    except OSError as error:
        raise SubnetError(f"the subnet file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SubnetError(f"{path} is no subnet file: it is not plain text") from error
