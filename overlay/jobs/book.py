"""The agreements that a node holds, with what was spent under each; the ledger remembers what memory forgets."""

from __future__ import annotations

from collections import OrderedDict

import trio

from compute.usage import Prices
from overlay.jobs.limits import MAX_KNOWN_AGREEMENTS
from overlay.market import Agreement
from overlay.settlement.ledger import AgreementRecord, Budget, GroupCommit, Store


class AgreementBook:
    """Agreements by id, and a budget for each on each channel. One book a node and a role."""

    def __init__(self, ledger: GroupCommit) -> None:
        self._ledger = ledger
        self._known: OrderedDict[bytes, Agreement] = OrderedDict()
        self._budgets: OrderedDict[tuple[bytes, str], Budget] = OrderedDict()
        self._unwritten: dict[bytes, trio.Event] = {}

    def known(self, agreement_id: bytes) -> Agreement | None:
        """The agreement, if it is in memory."""
        return self._known.get(agreement_id)

    def prices_of(self, agreement_id: bytes) -> Prices | None:
        """The prices of an agreement that is in memory."""
        known = self._known.get(agreement_id)
        return None if known is None else known.body.prices

    async def add(self, agreement: Agreement) -> None:
        """Keep an agreement, its signatures already verified: in memory at once, on the disk on return."""
        while (writing := self._unwritten.get(agreement.id)) is not None:
            await writing.wait()
        if agreement.id in self._known:
            return
        self._remember(agreement)
        written = self._unwritten[agreement.id] = trio.Event()
        body = agreement.body
        record = AgreementRecord(agreement.id, body.client, agreement.encode(), body.valid_until_ms // 1000)
        try:
            await self._ledger.run(lambda store: store.put_agreement(record))
        except BaseException:
            self._known.pop(agreement.id, None)  # whoever asks next writes it
            raise
        finally:
            del self._unwritten[agreement.id]
            written.set()

    async def get(self, agreement_id: bytes) -> Agreement | None:
        """The agreement, from memory or the ledger."""
        known = self._known.get(agreement_id)
        if known is None:
            record = await self._ledger.run(lambda store: store.agreement(agreement_id))
            if record is not None:
                known = Agreement.parse(record.body)
                self._remember(known)
        return known

    async def budget(self, agreement: Agreement, channel: str) -> Budget:
        """What may be spent under ``agreement``, with what the receipts of ``channel`` already charged to it."""
        key = (agreement.id, channel)
        budget = self._budgets.get(key)
        if budget is None:

            def spent_before(store: Store) -> int:
                return store.spent_under(agreement.id, channel)

            spent = await self._ledger.run(spent_before)
            # Another task may have been here while the ledger was read: there is one budget, or none is a bound.
            budget = self._budgets.get(key)
            if budget is None:
                limit = agreement.body.max_amount_nanoton
                budget = self._budgets[key] = Budget("the agreement's maximum", limit, spent_nanoton=spent)
                self._evict()
        return budget

    def _remember(self, agreement: Agreement) -> None:
        self._known[agreement.id] = agreement
        while len(self._known) > MAX_KNOWN_AGREEMENTS:
            self._known.popitem(last=False)

    def _evict(self) -> None:
        while len(self._budgets) > MAX_KNOWN_AGREEMENTS:
            key, budget = next(iter(self._budgets.items()))
            if budget.reserved_nanoton:
                self._budgets.move_to_end(key)
                return
            del self._budgets[key]
