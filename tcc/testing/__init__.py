"""For users' tests: a whole manager in the test's own process, on a log and a courier in memory, without ports.

    server = tcc.ParticipantServer("localhost:0", fence=fence)     # need not be started
    add_AccountsServicer_to_server(Accounts(), server)
    async with tcc.testing.manager(server) as manager:
        done = await manager.execute(bank.TryDebit(debit), bank.TryCredit(credit), wait=tcc.COMPLETED)

Needs the extra `tcc-toolkit[server]`.
"""

from tcc.testing._manager import manager

__all__ = ["manager"]
