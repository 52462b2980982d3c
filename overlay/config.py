"""Configuration: one TOML file, presets, and every key overridable by environment and flag.

Precedence, strongest first: flags (`--set node.listen=…` and the flags with names of their own), environment
(`COCOON_NODE_LISTEN=…`), the file (`--config FILE`, else `cocoon.toml` in the data directory), the preset, the defaults
below. All of it is checked at start, and an unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from overlay.errors import ConfigError
from transport.host import limits as host_limits

NANOTON_PER_TON = 1_000_000_000


class NodeSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[node]`: where the node listens and whom it asks for others."""

    preset: str = ""
    """A named set of defaults: see `PRESETS`."""
    listen: list[str] = msgspec.field(default_factory=lambda: ["/ip4/0.0.0.0/tcp/4001", "/ip6/::/tcp/4001"])
    """libp2p addresses of the control plane; port 0 takes any free one."""
    tunnel_host: str = ""
    """Address that the tunnel listener binds; empty means every one of this machine, IPv4 and IPv6."""
    tunnel_port: int = 0
    """Port of the tunnel listener, 0 for any free one."""
    announce: list[str] = msgspec.field(default_factory=list)
    """libp2p addresses to advertise instead of those found on the interfaces (behind a port forward)."""
    bootstrap: list[str] = msgspec.field(default_factory=list)
    """Multiaddrs of peers to start from, each ending in `/p2p/<peer id>`."""
    serve: list[str] = msgspec.field(default_factory=lambda: ["chat", "transcribe"])
    """Tasks on offer."""
    queue_per_engine: int = 64
    """Jobs that may wait for an engine before newcomers are told to come back."""
    drain_timeout_s: int = 30
    """How long running jobs may go on after SIGTERM."""


class DiscoverySection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[discovery]`: how providers and clients find each other; at least one of the two."""

    gossip: bool = True
    """Hear and tell of offers among connected nodes."""
    dht: bool = True
    """List offers in the distributed hash table, and search it for what is not known."""


class RelaySection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[relay]`: being reached through others where nobody can dial us, and carrying for others."""

    use: list[str] = msgspec.field(default_factory=list)
    """Multiaddrs of relays to be reached through, each ending in `/p2p/<peer id>`."""
    find: bool = True
    """Look for relays among the peers when nobody can dial us."""
    serve: bool | Literal["auto"] = "auto"
    """Carry connections for others, within the bounds below: always, never, or while others reach us directly."""
    reservations: int = host_limits.RELAY_RESERVATIONS
    """Peers that a place is kept for."""
    circuits: int = host_limits.RELAY_CIRCUITS
    """Connections carried at once."""
    circuit_bytes: int = host_limits.RELAY_BYTES
    """Bytes of one of them, both ways together; then it is cut."""
    circuit_s: int = int(host_limits.RELAY_SECONDS)
    """How long one may stand."""
    bytes_per_s: int = host_limits.RELAY_BYTES_PER_S
    """What all of them together carry."""


class NatSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[nat]`: finding out whether others can dial us, and getting through routers."""

    probe: bool = True
    """Ask peers to dial us back, and dial back for them."""
    assume: Literal["", "public", "private"] = ""
    """What is so, for who knows it; empty finds out."""
    private_internet: bool = False
    """Treat private addresses as those of the internet: for a network of its own, without one."""


class PriceSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[price]`: nanoTON per million units. The ask moves between `floor` and `floor × cap_ratio` with demand."""

    prompt: int = 20_000_000
    cached: int = 5_000_000
    completion: int = 60_000_000
    reasoning: int = 60_000_000
    audio_ms: int = 20_000_000
    embedding: int = 5_000_000
    cap_ratio: float = 5.0


class MarketSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[market]`: what a client is ready to pay."""

    max_prompt: int = 1_000_000_000
    max_completion: int = 3_000_000_000
    max_audio_ms: int = 100_000_000
    max_embedding: int = 300_000_000
    value_of_time_nanoton_per_s: int = 10_000
    """What a second of waiting is worth to you: dearer but quicker providers win when it pays."""
    cap_covers_time: bool = False
    """Whether what a job would cost at the caps is all that it is worth to you, waiting included: then a quote that
    with the value of its seconds comes to more is not accepted, however low its price."""
    tier: str = "plain"
    """The least confidentiality tier that will do."""
    agreement_s: int = 60
    """How long a negotiated price is fixed for."""


class TonSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[ton]`: which chain, and how much is at stake."""

    config: str = ""
    """Path of a TON `global.config.json`; empty means the local devnet, which is started when there is none."""
    network: str = ""
    """`mainnet`, `testnet` or a `global_id`: refuse a config that leads elsewhere. Empty takes what the config says."""
    trust_level: int = 1
    """0: validators' signatures; 1: several liteservers must agree; 2: whatever one says."""
    quorum: int = 0
    """How many liteservers must name the same block at trust level 1; 0 is two, or one where there is only one."""
    passphrase_file: str = ""
    """File with the passphrase of sealed keys, for a node that starts without a person."""
    deposit_nanoton: int = 500_000_000
    """What a client puts into a new channel."""
    credit_window_nanoton: int = 2_000_000
    """What a provider serves before it insists on the next voucher."""
    challenge_period_s: int = 3600
    channel_lifetime_s: int = 7 * 86_400
    settle_at_nanoton: int = 1_000_000_000
    """A provider claims when this much is unclaimed (and in any case before a channel expires)."""
    unclaimed_cap_nanoton: int = 20_000_000_000
    """And when this much is unclaimed on all its channels together, the largest first."""
    claim_risk_ppm_per_day: int = 1000
    """What it reckons to lose of unclaimed money in a day, in millionths: a claim is due when that has cost its fee."""
    claim_dust_nanoton: int = 0
    """This much or less is not worth a claim, not even before a channel ends."""


class RiskSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[risk]`: the most money that may be at risk at one time, in nanoTON; 0 sets no cap."""

    spend_per_channel_nanoton: int = 0
    """What the running jobs of a client may cost on one channel, from their start until their end."""
    spend_per_peer_nanoton: int = 0
    spend_nanoton: int = 0
    credit_per_channel_nanoton: int = 0
    """What a provider serves on one channel before a voucher covers it."""
    credit_per_peer_nanoton: int = 0
    credit_nanoton: int = 0


class UpstreamSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[engine.upstream]`: an OpenAI-compatible server of your own (vLLM, SGLang, TabbyAPI, Ollama) to sell."""

    base_url: str = ""
    api_key_env: str = ""
    models: list[str] = msgspec.field(default_factory=list)
    """Models to offer; empty offers all that the server lists."""
    max_parallel: int = 16


class Exllamav2Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[engine.exllamav2]`: a model directory served on this machine's GPU."""

    model_dir: str = ""
    model: str = ""
    max_batch: int = 8
    cache: str = "fp16"


class EngineSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[engine]`: what computes."""

    chat: list[str] = msgspec.field(default_factory=lambda: ["demo_llama"])
    """Engines for chat and completion, in order: `demo_llama`, `upstream`, `exllamav2`."""
    transcribe: list[str] = msgspec.field(default_factory=lambda: ["pocketsphinx"])
    upstream: UpstreamSection = UpstreamSection()
    exllamav2: Exllamav2Section = Exllamav2Section()


class GatewaySection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[gateway]`: the OpenAI-compatible endpoint."""

    host: str = "127.0.0.1"
    port: int = 8080
    token_env: str = ""
    """Name of an environment variable with a bearer token that requests must carry; empty asks for none."""


class WatchtowerSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[watchtower]`: who claims for a provider that is not there, and for whom a watchtower does."""

    towers: list[str] = msgspec.field(default_factory=list)
    """A provider's watchtowers: multiaddrs, each ending in `/p2p/<peer id>`, to which it hands its vouchers."""
    hand_over_nanoton: int = 10_000_000
    """It does so each time more than this would be lost without."""
    serve: list[str] = msgspec.field(default_factory=list)
    """Peer ids of the providers that a watchtower serves; `*` serves anybody."""
    allowance_nanoton: int = 200_000_000
    """What claims for one provider may cost a watchtower in 30 days."""
    patience_s: int = 600
    """How long a watchtower lets a provider claim by itself once a refund has started."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole configuration; every field has a default, so an empty file is a valid one."""

    node: NodeSection = NodeSection()
    discovery: DiscoverySection = DiscoverySection()
    relay: RelaySection = RelaySection()
    nat: NatSection = NatSection()
    price: PriceSection = PriceSection()
    market: MarketSection = MarketSection()
    ton: TonSection = TonSection()
    risk: RiskSection = RiskSection()
    engine: EngineSection = EngineSection()
    gateway: GatewaySection = GatewaySection()
    watchtower: WatchtowerSection = WatchtowerSection()


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "local": {"node": {"listen": ["/ip4/127.0.0.1/tcp/0"], "tunnel_host": "127.0.0.1", "tunnel_port": 0}},
    "home": {"node": {"queue_per_engine": 16}, "ton": {"settle_at_nanoton": 1_000_000_000}},
    "datacenter": {
        "node": {"queue_per_engine": 512, "tunnel_port": 4002},
        "ton": {"settle_at_nanoton": 20_000_000_000, "unclaimed_cap_nanoton": 200_000_000_000},
    },
}
"""`local`: loopback only, any free port, for trying things. `home`: one GPU behind a home router. `datacenter`: a
public address, fixed ports, a long queue."""

_UNKNOWN_FIELD = re.compile(r"unknown field `(?P<field>[^`]*)`(?: - at `\$\.?(?P<path>[^`]*)`)?")


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = json.loads(json.dumps(value)) if isinstance(value, Mapping) else value
    return base


def _fields(path: str) -> list[str]:
    struct: Any = Config
    for part in filter(None, path.split(".")):
        struct = next((f.type for f in msgspec.structs.fields(struct) if f.name == part), Config)
    return [f.name for f in msgspec.structs.fields(struct)]


def _explain(error: msgspec.ValidationError, source: str) -> ConfigError:
    text = str(error)
    if match := _UNKNOWN_FIELD.search(text):
        path, field = match["path"] or "", match["field"]
        known = _fields(path)
        near = difflib.get_close_matches(field, known, 1, 0.5)
        full = f"{path}.{field}".lstrip(".")
        hint = f"did you mean {near[0]!r}?" if near else "known here: " + ", ".join(sorted(known))
        return ConfigError(f"{source}: there is no key {full!r}; {hint}")
    return ConfigError(f"{source}: {text.replace('`$.', '`')}")


def _scalar(text: str) -> Any:
    """A value as typed on a command line: TOML if it parses as TOML, a plain string otherwise."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def _assign(tree: dict[str, Any], path: str, text: str, source: str) -> None:
    *sections, key = path.split(".")
    if not sections:
        raise ConfigError(f"{source}: {path!r} names no section; write section.key=value, for example node.serve=chat")
    struct: Any = Config
    for part in sections:
        struct = next((f.type for f in msgspec.structs.fields(struct) if f.name == part), None)
        tree = tree.setdefault(part, {})
        if struct is None or not isinstance(tree, dict):
            raise ConfigError(
                f"{source}: there is no section {'.'.join(sections)!r}; sections: {', '.join(_fields(''))}"
            )
    value = _scalar(text)
    wanted = next((str(f.type) for f in msgspec.structs.fields(struct) if f.name == key), "")
    if wanted.startswith("list[") and not isinstance(value, list):
        value = [item.strip() for item in text.split(",") if item.strip()]
    elif wanted == "<class 'str'>":
        value = value if isinstance(value, str) else text
    tree[key] = value


def _environment(environ: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(path, text, variable) for each `COCOON_SECTION_KEY` that names a key; others are left to whoever reads them."""
    known = {}
    for section in msgspec.structs.fields(Config):
        for field in msgspec.structs.fields(section.type):
            if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
                for inner in msgspec.structs.fields(field.type):
                    known[f"COCOON_{section.name}_{field.name}_{inner.name}".upper()] = (
                        f"{section.name}.{field.name}.{inner.name}"
                    )
            else:
                known[f"COCOON_{section.name}_{field.name}".upper()] = f"{section.name}.{field.name}"
    return [(known[name], text, name) for name, text in sorted(environ.items()) if name in known]


def load_config(
    file: Path | None,
    *,
    overrides: Sequence[str] = (),
    preset: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """Read and check the configuration.

    ``file`` may be absent from disk only when it is ``None``; ``overrides`` are ``section.key=value`` texts, where the
    value is TOML (``["a", "b"]``, ``3``, ``true``), a comma-separated list or plain text. Raises
    :class:`~overlay.errors.ConfigError`, whose message names the file, the key and the remedy.
    """
    from_file: dict[str, Any] = {}
    source = "configuration"
    if file is not None:
        source = str(file)
        try:
            from_file = tomllib.loads(file.read_text("utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{file}: no such file; leave --config out to use the defaults") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{file}: {error}") from error
        _check(from_file, source)
    set_here = [text.partition("=")[2].strip() for text in overrides if text.partition("=")[0].strip() == "node.preset"]
    in_file, in_environ = from_file.get("node", {}).get("preset"), environ.get("COCOON_NODE_PRESET")
    name = preset or next(iter(set_here[-1:]), None) or in_environ or in_file or ""
    if name and name not in PRESETS:
        raise ConfigError(f"there is no preset {name!r}; presets: {', '.join(sorted(PRESETS))}")
    tree = _merge(_merge({}, PRESETS.get(name, {})), from_file)
    if name:
        tree.setdefault("node", {})["preset"] = name
    for path, text, variable in _environment(environ):
        _assign(tree, path, text, variable)
    for override in overrides:
        path, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"--set {override}: write section.key=value")
        _assign(tree, path.strip(), text.strip(), f"--set {override}")
    config = _check(tree, source)
    _check_ranges(config)
    return config


def from_keys(keys: Mapping[str, Any], source: str) -> Config:
    """The configuration of a node without file and environment, from dotted keys: ``{"node.serve": ["chat"]}``.

    Raises :class:`~overlay.errors.ConfigError`, whose message begins with ``source``.
    """
    tree: dict[str, Any] = {}
    for path, value in keys.items():
        *sections, key = path.split(".")
        inner: Any = tree
        for part in sections:
            inner = inner.setdefault(part, {}) if isinstance(inner, dict) else None
        if not isinstance(inner, dict) or isinstance(inner.get(key), dict):
            raise ConfigError(f"{source}: {path!r} is given both as a table and as a value")
        inner[key] = value
    preset = tree.get("node", {}).get("preset", "") if isinstance(tree.get("node"), dict) else ""
    if preset and preset not in PRESETS:
        raise ConfigError(f"{source}: there is no preset {preset!r}; presets: {', '.join(sorted(PRESETS))}")
    config = _check(_merge(_merge({}, PRESETS.get(preset, {})), tree), source)
    try:
        _check_ranges(config)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    return config


def _check(tree: Mapping[str, Any], source: str) -> Config:
    try:
        return msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        raise _explain(error, source) from None


def _check_relay(section: RelaySection) -> None:
    most = {
        "reservations": host_limits.MAX_RELAY_RESERVATIONS,
        "circuits": host_limits.MAX_RELAY_CIRCUITS,
        "circuit_bytes": host_limits.MAX_RELAY_BYTES,
        "circuit_s": int(host_limits.RELAY_RESERVATION_S),
        "bytes_per_s": host_limits.MAX_RELAY_BYTES_PER_S,
    }
    for name, limit in most.items():
        if not 0 < (value := getattr(section, name)) <= limit:
            raise ConfigError(f"relay.{name}: from 1 to {limit}, not {value}")
    if len(section.use) > host_limits.MAX_RELAYS:
        raise ConfigError(f"relay.use: {host_limits.MAX_RELAYS} relays at most, not {len(section.use)}")


def _check_ranges(config: Config) -> None:
    _check_relay(config.relay)
    from compute.tasks import Task

    for task in config.node.serve:
        if task not in set(Task):
            raise ConfigError(f"node.serve: there is no task {task!r}; tasks: {', '.join(Task)}")
    from overlay.market import Tier

    if config.market.tier not in set(Tier):
        raise ConfigError(f"market.tier: there is no tier {config.market.tier!r}; tiers: {', '.join(Tier)}")
    for name, value in (("node.tunnel_port", config.node.tunnel_port), ("gateway.port", config.gateway.port)):
        if not 0 <= value <= 65_535:
            raise ConfigError(f"{name}: {value} is no port; 0 takes any free one")
    if not (config.discovery.gossip or config.discovery.dht):
        raise ConfigError(
            "discovery.gossip, discovery.dht: with neither, this node finds nobody; set one of them to true"
        )
    positive = {
        "ton.deposit_nanoton": config.ton.deposit_nanoton,
        "ton.credit_window_nanoton": config.ton.credit_window_nanoton,
        "ton.challenge_period_s": config.ton.challenge_period_s,
        "ton.channel_lifetime_s": config.ton.channel_lifetime_s,
        "ton.settle_at_nanoton": config.ton.settle_at_nanoton,
        "market.agreement_s": config.market.agreement_s,
        "node.queue_per_engine": config.node.queue_per_engine,
    }
    for name, value in positive.items():
        if value <= 0:
            raise ConfigError(f"{name}: must be above zero, not {value}")
    for key, cap in msgspec.structs.asdict(config.risk).items():
        if cap < 0:
            raise ConfigError(f"risk.{key}: a cap is not negative, and {cap} is; 0 sets none")
    prices = msgspec.structs.asdict(config.price)
    ratio = prices.pop("cap_ratio")
    if ratio < 1:
        raise ConfigError(f"price.cap_ratio: the cap cannot lie under the floor; at least 1, not {ratio}")
    for unit, price in prices.items():
        if price < 0:
            raise ConfigError(f"price.{unit}: a price is not negative")
    never_negative = {
        "ton.unclaimed_cap_nanoton": config.ton.unclaimed_cap_nanoton,
        "ton.claim_risk_ppm_per_day": config.ton.claim_risk_ppm_per_day,
        "ton.claim_dust_nanoton": config.ton.claim_dust_nanoton,
        "watchtower.hand_over_nanoton": config.watchtower.hand_over_nanoton,
        "watchtower.allowance_nanoton": config.watchtower.allowance_nanoton,
        "watchtower.patience_s": config.watchtower.patience_s,
    }
    for name, value in never_negative.items():
        if value < 0:
            raise ConfigError(f"{name}: not below zero, as {value} is")
