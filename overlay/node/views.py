"""What commands show of a running node, as plain JSON values."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from compute.engines.base import Capability
from compute.scheduler import Load
from compute.tasks import Task
from dht import Offer
from overlay.chain import Chain
from overlay.channels import Held, Outcome, Settlement
from overlay.config import Config, RiskSection
from overlay.errors import InvalidRequest
from overlay.events import prices_text, ton
from overlay.market import Tier
from overlay.node.discovery import Discovery
from overlay.settlement import ChannelTerms
from overlay.settlement.chain import ChannelState, TxResult
from overlay.settlement.ledger import (
    ChannelAccount,
    ChannelRecord,
    ChannelStatus,
    GroupCommit,
    RiskBook,
    RiskLimits,
    Role,
    Store,
)
from transport.tunnel import TunnelStats

_WILDCARDS = {"/ip4/0.0.0.0/": ("ip4", "dns4", "dns"), "/ip6/::/": ("ip6", "dns6", "dns")}
"""Listening on every interface, and the kinds of address at which that is reached."""

_LOOPBACK = {"ip4": "127.0.0.1", "ip6": "::1"}


def selling(
    offers: Iterable[Offer],
    capabilities: Mapping[tuple[Task, str], Capability],
    loads: Mapping[tuple[Task, str], Load],
) -> list[dict[str, Any]]:
    """What a provider sells now."""
    rows = []
    for offer in offers:
        key = (Task(offer.task), offer.model)
        rows.append(
            {
                "task": offer.task,
                "model": offer.model,
                "tier": offer.tier,
                "prices": dict(offer.prices),
                "price": prices_text(offer.prices),
                "busy": loads[key].busy,
                "slots": loads[key].slots,
                "queued": loads[key].queued,
                "note": capabilities[key].note,
            }
        )
    return rows


def tunnels(stats: Iterable[TunnelStats]) -> list[dict[str, Any]]:
    """The tunnels of a node, the busiest first."""
    rows = [
        {
            "peer_id": one.peer_id,
            "path": "relayed" if one.relayed else "direct",
            "pattern": one.pattern,
            "rtt_ms": None if one.rtt_ms is None else round(one.rtt_ms, 2),
            "sent_bytes_per_s": round(one.sent_bytes_per_s),
            "received_bytes_per_s": round(one.received_bytes_per_s),
            "sent_bytes": one.bytes_sent,
            "received_bytes": one.bytes_received,
            "streams": one.streams,
            "padded": one.padded,
        }
        for one in stats
    ]
    return sorted(rows, key=lambda row: (-row["sent_bytes_per_s"] - row["received_bytes_per_s"], row["peer_id"]))


def peers(discovery: Discovery) -> dict[str, Any]:
    """Who is connected, and what is known to be on offer."""
    host, directory = discovery.host, discovery.directory
    connected = [
        {"peer_id": p.peer_id, "addr": p.addr, "inbound": p.inbound, "relayed": p.relayed} for p in host.peers()
    ]
    offers = []
    for task, model in directory.models():
        for peer_id, record, offer in directory.providers(task, model):
            heard = directory.index.heard(peer_id)
            offers.append(
                {
                    "peer_id": peer_id,
                    "task": task,
                    "model": model,
                    "tier": offer.tier,
                    "prices": dict(offer.prices),
                    "busy": offer.busy,
                    "slots": offer.slots,
                    "age_s": max(0, round(discovery.clock() - record.issued_at)),
                    "learned": heard.source.value if heard else None,
                }
            )
    state = discovery.state()
    return {"peers": connected, "offers": offers, "discovery": {"gossip": state["gossip"], "dht": state["dht"]}}


async def market(discovery: Discovery, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Who sells something now, for `cocoon market providers`. Raises :class:`~overlay.errors.CocoonError`."""
    try:
        task, model, tier = str(Task(arguments["task"])), str(arguments["model"]), str(Tier(arguments["tier"]))
        wait_s = min(60.0, float(arguments["wait_s"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidRequest(f"not something to look for: {error}") from error
    return await discovery.market(task, model, tier, timeout_s=wait_s)


async def wallet(chain: Chain) -> dict[str, Any]:
    """Address and balance."""
    return {
        "address": chain.account.wallet.friendly_address(),
        "raw_address": chain.account.address,
        "network": chain.network,
        "balance_nanoton": await chain.account.balance_nanoton(),
    }


def spend_caps(section: RiskSection) -> RiskBook:
    """A client's caps on what its running jobs may cost."""
    limits = RiskLimits(section.spend_per_channel_nanoton, section.spend_per_peer_nanoton, section.spend_nanoton)
    return RiskBook(
        limits, ("risk.spend_per_channel_nanoton", "risk.spend_per_peer_nanoton", "risk.spend_nanoton")
    )  # fmt: skip


def credit_caps(section: RiskSection) -> RiskBook:
    """A provider's caps on what it serves before a voucher covers it."""
    limits = RiskLimits(section.credit_per_channel_nanoton, section.credit_per_peer_nanoton, section.credit_nanoton)
    return RiskBook(
        limits, ("risk.credit_per_channel_nanoton", "risk.credit_per_peer_nanoton", "risk.credit_nanoton")
    )  # fmt: skip


def credit_window(config: Config) -> int:
    """The credit window that a provider offers, in nanoTON: as configured, unless a cap is narrower."""
    risk = config.risk
    caps = (risk.credit_per_channel_nanoton, risk.credit_per_peer_nanoton, risk.credit_nanoton)
    return min([config.ton.credit_window_nanoton, *(cap for cap in caps if cap)])


async def money(
    ledger: GroupCommit, role: Role, live: Mapping[str, ChannelAccount], risk: RiskBook | None
) -> dict[str, Any]:
    """A node's sums over all its channels as they stand now, in nanoTON (docs/commands/node.md has their meaning).

    ``live`` are the channels in use: their running jobs are in no ledger yet."""
    rows = [row for row in await channels(ledger, live) if row["role"] == role.value]
    open_rows = [row for row in rows if row["status"] != ChannelStatus.CLOSED.value]

    def total(name: str, of: Sequence[Mapping[str, Any]] = open_rows) -> int:
        return sum(row[name] for row in of)

    sums: dict[str, Any] = {
        "reserved_nanoton": total("reserved_nanoton"),
        "unpaid_nanoton": total("unpaid_nanoton"),
        "prepaid_nanoton": total("prepaid_nanoton"),
        "unclaimed_nanoton": total("unclaimed_nanoton"),
        "at_risk_nanoton": total("at_risk_nanoton"),
        "caps": RiskBook(RiskLimits(), ("", "", "")).to_json() if risk is None else risk.to_json(),
    }
    promised = total("voucher_nanoton", rows)
    if role is Role.PAYEE:
        return {"earned_nanoton": promised, "claimed_nanoton": total("paid_nanoton", rows), **sums}
    locked = total("deposit_nanoton") - total("voucher_nanoton")
    return {"spent_nanoton": promised, "locked_nanoton": locked, **sums}


async def channels(ledger: GroupCommit, live: Mapping[str, ChannelAccount]) -> list[dict[str, Any]]:
    """Every channel of the ledger, newest first, as it stands now: ``live`` are those in use."""
    return await ledger.run(lambda store: channel_rows(store, live))


def channel_rows(store: Store, live: Mapping[str, ChannelAccount] | None = None) -> list[dict[str, Any]]:
    """The same, from an open store."""
    live = live or {}
    return [_channel(store, record, live.get(record.channel)) for record in store.channels()]


def _channel(store: Store, record: ChannelRecord, live: ChannelAccount | None) -> dict[str, Any]:
    sums = store.at_risk(record.channel)
    if live is not None:
        sums = replace(
            sums, owed_nanoton=live.owed_nanoton, promised_nanoton=live.promised_nanoton,
            reserved_nanoton=live.reserved_nanoton,
        )  # fmt: skip
    expiry = ChannelTerms.from_bytes(record.terms).expiry_s
    over = record.status is ChannelStatus.CLOSED
    at_risk = sums.unpaid_nanoton if record.role is Role.PAYEE else sums.prepaid_nanoton
    return {
        "channel": record.channel,
        "role": record.role.value,
        "peer": record.peer,
        "status": record.status.value,
        "deposit_nanoton": record.deposit_nanoton,
        "reserved_nanoton": 0 if over else sums.reserved_nanoton,
        "owed_nanoton": sums.owed_nanoton,
        "voucher_nanoton": sums.promised_nanoton,
        "unpaid_nanoton": sums.unpaid_nanoton,
        "prepaid_nanoton": sums.prepaid_nanoton,
        "paid_nanoton": record.paid_nanoton,
        "unclaimed_nanoton": 0 if over else sums.unclaimed_nanoton,
        "written_off_nanoton": sums.written_off_nanoton,
        "at_risk_nanoton": 0 if over else at_risk,
        "live": live is not None,
        "expires": time.strftime("%Y-%m-%d %H:%M", time.localtime(expiry)),
        "expires_at": expiry,
    }


def claimed(held: Held, result: TxResult) -> dict[str, Any]:
    """One claim of a provider."""
    assert held.voucher is not None
    total = held.voucher.amount_nanoton
    gained = total - held.record.paid_nanoton
    return {
        "action": "closed" if result.state.status == "closed" else "claimed",
        "channel": held.record.channel,
        "peer": held.record.peer,
        "gained_nanoton": gained,
        "paid_nanoton": total,
        "fee_nanoton": result.fee_nanoton,
        "transaction": result.hash,
        "text": f"{ton(gained)}, transaction {result.hash}",
    }


def ended(settlement: Settlement) -> dict[str, Any]:
    """How a channel ended, or how far leaving it has come."""
    return {
        "action": settlement.action,
        "channel": settlement.channel,
        "peer": settlement.peer,
        "tx": settlement.transaction,
        "transaction": settlement.transaction,
        "paid_nanoton": settlement.paid_nanoton,
        "refund_nanoton": settlement.refund_nanoton,
        "gained_nanoton": settlement.gained_nanoton,
        "fee_nanoton": settlement.fee_nanoton,
        "done": settlement.done,
        "next_at": settlement.next_at_s,
        "text": settlement.text,
    }


def rehearsed(record: ChannelRecord, state: ChannelState, chain: Chain, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What leaving a channel would bring."""
    return {
        "channel": record.channel,
        "role": record.role.value,
        "peer": record.peer,
        "network": chain.network,
        "status": state.status,
        "deposit_nanoton": state.deposit_nanoton,
        "paid_nanoton": state.paid_nanoton,
        "state_at": state.utime_s,
        "possible": all(outcome.success for outcome in outcomes),
        "outcomes": [
            {
                "if": outcome.course,
                "receives_nanoton": outcome.receives_nanoton,
                "costs_nanoton": outcome.costs_nanoton,
                "wallet_change_nanoton": outcome.change_nanoton,
                "at": outcome.at_s,
                "success": outcome.success,
                "steps": [
                    {
                        "action": step.action, "at": step.at_s, "gas": step.gas, "fee_nanoton": step.fee_nanoton,
                        "exit_code": step.exit_code, "success": step.success,
                    }
                    for step in outcome.steps
                ],
            }
            for outcome in outcomes
        ],
    }  # fmt: skip


def reachable(addrs: Sequence[str], host_addrs: Sequence[str]) -> list[str]:
    """Tunnel addresses to publish: a listener on every interface is reachable wherever the control plane is, but for
    relays, which carry the control plane alone."""
    found: list[str] = []
    direct = [addr.split("/") for addr in host_addrs if "/p2p-circuit" not in addr]
    for addr in addrs:
        kinds = next((kinds for wildcard, kinds in _WILDCARDS.items() if addr.startswith(wildcard)), None)
        if kinds is None:
            found.append(addr)
            continue
        port = addr.rpartition("/")[2]
        found.extend("/".join([*parts[:3], "tcp", port]) for parts in direct if parts[1] in kinds)
    return list(dict.fromkeys(found))


def local_addrs(host_addrs: Sequence[str], config: Config) -> list[str]:
    """The control plane's addresses for neighbours on this machine: loopback, where we listen on every interface."""
    everywhere = {a.split("/")[1] for a in config.node.listen if a.startswith(tuple(_WILDCARDS))}
    found = []
    for addr in host_addrs:
        parts = addr.split("/")
        if parts[1] in everywhere and "p2p-circuit" not in parts:
            parts[2] = _LOOPBACK[parts[1]]
        found.append("/".join(parts))
    return list(dict.fromkeys(found))
