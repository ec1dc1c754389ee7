"""What is particular to the log in memory: several replicas on one store."""

from __future__ import annotations

from tcc_server.log.memory import MemoryLog, MemoryStore
from tests.log.rows import new_row


async def test_rows_of_a_live_replica_are_adopted_only_once_its_lease_has_lapsed() -> None:
    store = MemoryStore()
    first, second = MemoryLog(store, replica="first"), MemoryLog(store, replica="second")
    await first.open()
    await second.open()
    await first.append(new_row())
    assert await second.adopt(10) == []
    store.expire("first")
    (adopted,) = await second.adopt(10)
    assert (adopted.owner, adopted.version) == ("second", 2)
