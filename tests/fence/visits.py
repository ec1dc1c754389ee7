"""One branch's visits, and business code that counts its runs."""

from __future__ import annotations

from dataclasses import replace

from tcc.fence import Fence, Phase, Record, Refusal, Verdict, Visit

TRY = Visit("default", "g-1", "0", Phase.TRY, "/bank.Bank/TryDebit", b"\x01\x02")
CONFIRM = replace(TRY, phase=Phase.CONFIRM)
CANCEL = replace(TRY, phase=Phase.CANCEL)
OF = {Phase.TRY: TRY, Phase.CONFIRM: CONFIRM, Phase.CANCEL: CANCEL}


class Business:
    """Business code: gives its result, or raises it, and counts its runs."""

    def __init__(self, result: bytes | Refusal | Exception = b"reply") -> None:
        self.result = result
        self.runs = 0
        self.seen: Record | None = None

    async def __call__(self, record: Record | None) -> bytes | Refusal:
        self.runs += 1
        self.seen = record
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


async def run(fence: Fence, *visits: Visit) -> Verdict:
    """Lets visits succeed one after the other; gives the last verdict."""
    for visit in visits:
        verdict = await fence.visit(visit, Business())
    return verdict


async def never(record: Record | None) -> bytes:
    """Business code that must not run."""
    raise AssertionError("the business code ran")
