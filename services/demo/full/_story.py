"""The story on the whole stack: orders and transfers, and everything that can die dies once.

In order: work while Redis loses its locks; a bank killed between Try and Confirm, and RabbitMQ stopped with that
command in it, and work meanwhile; manager and shop killed at once with work under way. Each crash is made to happen at
its moment, not hoped for. Everything that the proof needs is noted as it is seen.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import tcc
from services.accounts.v1.accounts_pb2_grpc import AccountsStub
from services.demo._banks import Bank, Books
from services.demo._processes import ConfiguredServer, DemoFailed, Server, run_once
from services.demo._proof import BankKill, Check, Found, ManagerKill
from services.demo._story import end
from services.demo._transfers import BANKS, Told, Transfer, carry_out, told_of, transfers
from services.demo.full._proof import BrokerOutage, FullFacts, LockLoss, ShopKill, prove_full
from services.demo.full._shop import OPENING_WITH_SHOP, Order, Shop, Warehouse, orders
from services.demo.full._stack import Outages, Stack
from tcc.tracing.export import Exporter

FIRST_TRANSFERS, FIRST_ORDERS = 13, 8
SECOND_TRANSFERS, SECOND_ORDERS = 26, 16
"""How many transfers and orders are done when the second round begins, and when the third does."""

POLL = 0.02
"""Seconds between two looks at what is under way."""
FLUSH_EVERY = 0.01
"""Seconds from one flush of Redis to the next."""
LEASE = 3
"""Seconds after which a manager takes over what a dead one has left."""
WAITING_LIMIT = 20.0
"""Seconds: a dead participant's command must be in its queue, and clients get to be answered without RabbitMQ."""


class FullStory:
    """What happens, in order.

    Args:
        stack: the servers.
        folder: for logs and the manager's configuration.
        say: tells one step.
        answered: is told each client's answer.
    """

    def __init__(self, stack: Stack, folder: Path, say: Callable[[str], None], answered: Callable[[Told], None]):
        self._stack = stack
        self._folder = folder
        self._say = say
        self._answered = answered
        self._told: dict[str, Told] = {}
        self._banks: dict[str, Bank] = {}
        self._flushes = self._locks = 0
        self.manager = Server("manager", (), folder)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Makes databases, starts all processes; stops them and removes what it made, however the block ends."""
        stack = self._stack
        participants = [stack.named(name) for name in (*BANKS, "inventory", "orders")]
        async with AsyncExitStack() as held:
            await held.enter_async_context(stack.queues(participants))
            urls = await held.enter_async_context(stack.databases([*BANKS, "inventory", "orders", "log"]))
            servers = self._processes(urls)
            held.push_async_callback(_stop, servers)
            await asyncio.gather(*(server.start() for server in servers if server is not self.manager))
            await self._configure(urls["log"], [server for server in servers if server is not self.manager])
            await self.manager.start()
            for server in servers:
                self._say(f"{server.name} serves at {server.address}")
            if stack.outages is None:
                self._say("left out, as the servers may be somebody's: restarting RabbitMQ, flushing Redis")
            yield

    async def tell(self) -> FullFacts:
        """All of it. Raises DemoFailed, and what the SDK raises, where it cannot go on."""
        await asyncio.gather(self._warehouse.put_stock(), *(bank.open_accounts() for bank in self._banks.values()))
        before, stock_before = await self._books(), await self._warehouse.stock()
        asked, ordered = self._asked, self._ordered
        async with AsyncExitStack() as held:
            manager = await held.enter_async_context(self._client())
            self._say(f"{FIRST_TRANSFERS} transfers and {FIRST_ORDERS} orders, all at once{self._while_flushing()}")
            flushing = await held.enter_async_context(self._flushing())
            await self._carry_out(manager, asked[:FIRST_TRANSFERS], ordered[:FIRST_ORDERS])
            bank_kill, outage = await self._kill_bank(
                manager,
                asked[FIRST_TRANSFERS],
                asked[FIRST_TRANSFERS + 1 : SECOND_TRANSFERS],
                ordered[FIRST_ORDERS:SECOND_ORDERS],
            )
            manager_kill, shop_kill = await self._kill_manager_and_shop(
                manager, asked[SECOND_TRANSFERS:], ordered[SECOND_ORDERS:]
            )
            flushing.set()
            self._say("every client has its answer; waiting until every transaction is final")
            gids = [transfer.gid for transfer in (*asked, *(order.payment for order in ordered))]
            ends = await asyncio.gather(*(end(manager, gid) for gid in gids))
            left_open = [view.gid async for view in manager.list(states=tcc.State.open())]
        return FullFacts(
            transfers=(*asked, *(order.payment for order in ordered)),
            told=self._told,
            found={view.gid: Found(view.state, view.decision, view.attention) for view in ends},
            left_open=tuple(left_open),
            before=before,
            after=await self._books(),
            bank_kill=bank_kill,
            manager_kill=manager_kill,
            orders=ordered,
            stock_before=stock_before,
            stock_after=await self._warehouse.stock(),
            book=await self._shop.book(),
            tried={one.name: await one.fence.tried() for one in (self._warehouse, self._shop)},
            shop_kill=shop_kill,
            broker_outage=outage,
            lock_loss=LockLoss(self._flushes, self._locks) if self._stack.outages else None,
        )

    def prove(self, facts: FullFacts) -> list[Check]:
        """What must hold."""
        return prove_full(facts)

    def _processes(self, urls: dict[str, str]) -> list[Server]:
        """All processes, not started yet; the manager last."""
        stack, folder, options = self._stack, self._folder, self._stack.service_options
        first, second = (stack.named(name) for name in BANKS)
        self._banks = {
            first: Bank(first, folder, OPENING_WITH_SHOP, urls[BANKS[0]], options),
            second: Bank(second, folder, database=urls[BANKS[1]], options=options),
        }
        self._asked = transfers((first, second), f"{stack.run}-t")
        self._ordered = orders(first, f"{stack.run}-o")
        self._warehouse = Warehouse(stack.named("inventory"), folder, urls["inventory"], options)
        # The shop is told where the manager is, and the manager where the shop is: one of them must be decided.
        address = f"127.0.0.1:{_free_port()}"
        self.manager = ConfiguredServer("manager", ("tcc", "server", "--config", str(self._config)), folder, address)
        shopping = ("--manager", address, "--inventory", self._warehouse.name, "--bank", first)
        self._shop = Shop(stack.named("orders"), folder, urls["orders"], (*options, *shopping))
        banks = [bank.server for bank in self._banks.values()]
        return [*banks, self._warehouse.server, self._shop.server, self.manager]

    @property
    def _config(self) -> Path:
        return self._folder / "tcc.toml"

    async def _configure(self, log: str, participants: Sequence[Server]) -> None:
        """Writes the manager's configuration, and brings its log to the present schema."""
        lines = [
            f"listen = {json.dumps(self.manager.address)}",
            f"log = {json.dumps(log)}",
            f"lease = {LEASE}",
            'courier = "rabbitmq"',
            *(f"participants.{one.name}.endpoint = {json.dumps(one.address)}" for one in participants),
            f"rabbitmq.url = {json.dumps(self._stack.rabbitmq)}",
            *([f"tracing.otlp = {json.dumps(self._stack.otlp)}"] if self._stack.otlp else []),
        ]
        self._config.write_text("\n".join(lines) + "\n")
        await run_once("migrate", ("tcc", "migrate", "--config", str(self._config)), self._folder)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[tcc.Manager]:
        """The demo's own connection to the manager; its spans begin the traces of the transfers."""
        async with AsyncExitStack() as held:
            exporter = None
            if self._stack.otlp:
                exporter = Exporter("demo", self._stack.otlp)
                held.push_async_callback(exporter.close)
            spans = exporter.provider if exporter else None
            yield await held.enter_async_context(tcc.Manager(self.manager.address, tracer_provider=spans))

    def _while_flushing(self) -> str:
        return f"; from now on Redis is flushed every {FLUSH_EVERY * 1000:.0f} ms" if self._stack.outages else ""

    @asynccontextmanager
    async def _flushing(self) -> AsyncIterator[asyncio.Event]:
        """Flushes until the event that it gives is set, or the block ends."""
        enough = asyncio.Event()  # not the task's cancellation alone, which a client may swallow
        async with asyncio.TaskGroup() as group:
            group.create_task(self._flush(enough))
            try:
                yield enough
            finally:
                enough.set()

    async def _flush(self, enough: asyncio.Event) -> None:
        """Redis loses all of its locks, over and over."""
        while self._stack.outages and not enough.is_set():
            self._locks += await self._stack.outages.flush_redis()
            self._flushes += 1
            await asyncio.sleep(FLUSH_EVERY)

    async def _kill_bank(
        self, manager: tcc.Manager, transfer: Transfer, others: Sequence[Transfer], ordered: Sequence[Order]
    ) -> tuple[BankKill, BrokerOutage | None]:
        """In an interactive transaction the client itself stands between the Tries and the decision to confirm."""
        bank = self._banks[transfer.source]
        try:
            async with manager.transaction("transfer", gid=transfer.gid) as tx:
                await AccountsStub(tx.channel.participant(transfer.source)).TryDebit(transfer.debit)
                await AccountsStub(tx.channel.participant(transfer.target)).TryCredit(transfer.credit)
                exit_code = await bank.server.kill()
                fence = await bank.fence.state(transfer.gid)
                self._say(f"{transfer.gid}, interactive: both Tries answered, nothing decided: SIGKILL to {bank.name}")
        except tcc.TransactionCancelled as cancelled:
            self._hear(transfer, told_of(cancelled))
        else:
            self._hear(transfer, Told(tcc.Decision.CONFIRM))
        waiting = await self._command_waits(bank)
        view = await manager.get(transfer.gid)
        [branch] = [branch for branch in view.branches if branch.participant == bank.name]
        self._say(f"{transfer.gid} is {view.state}, though {bank.name} is dead; its command waits in RabbitMQ")
        kill = BankKill(transfer.gid, bank.name, exit_code, fence, view.decision, settled=branch.settled_at is not None)
        work = f"{len(others)} more transfers and {len(ordered)} orders"
        if self._stack.outages is None:
            self._say(f"{work}; {bank.name} starts again")
            await asyncio.gather(self._carry_out(manager, others, ordered), bank.server.start())
            return kill, None
        answered = await self._without_rabbitmq(self._stack.outages, bank, work, manager, others, ordered)
        return kill, BrokerOutage(waiting, answered)

    async def _without_rabbitmq(
        self,
        outages: Outages,
        bank: Bank,
        work: str,
        manager: tcc.Manager,
        others: Sequence[Transfer],
        ordered: Sequence[Order],
    ) -> tuple[str, ...]:
        """A decision needs no RabbitMQ: clients are told while it is away. Gives the gids of those who were."""
        await outages.stop_rabbitmq()
        self._say(f"RabbitMQ is stopped with that command in it; {bank.name} starts again; {work}")
        before = set(self._told)
        async with asyncio.TaskGroup() as group:
            await bank.server.start()
            carrying = group.create_task(self._carry_out(manager, others, ordered))
            await asyncio.wait([carrying], timeout=WAITING_LIMIT)
            decided = tuple(gid for gid, told in self._told.items() if told.decision and gid not in before)
            self._say(f"{len(decided)} clients were told a decision without RabbitMQ; it starts again")
            await outages.start_rabbitmq()
        return decided

    async def _command_waits(self, bank: Bank) -> int:
        """Messages in the queue of a dead bank, once there is one."""
        try:
            async with asyncio.timeout(WAITING_LIMIT):
                while True:
                    waiting = await self._stack.waiting(bank.name)
                    if waiting:
                        return waiting
                    await asyncio.sleep(POLL * 5)
        except TimeoutError:
            raise DemoFailed(f"no command for {bank.name} came to its queue in {WAITING_LIMIT:.0f} s") from None

    async def _kill_manager_and_shop(
        self, manager: tcc.Manager, asked: Sequence[Transfer], ordered: Sequence[Order]
    ) -> tuple[ManagerKill, ShopKill]:
        """Who is paused answers no Try: so transfers and orders are sure to be under way when manager and shop die."""
        paused = [self._banks[self._stack.named(BANKS[1])].server, self._warehouse.server]
        names = " and ".join(server.name for server in paused)
        async with asyncio.TaskGroup() as group:
            for server in paused:
                server.pause()
            group.create_task(self._carry_out(manager, asked, ordered))
            open_gids = await self._undecided(manager, [*asked, *(order.payment for order in ordered)])
            manager_code = await self.manager.kill()
            shop_code = await self._shop.server.kill()
            answered = tuple(gid for gid in open_gids if gid in self._told)
            for server in paused:
                server.resume()
            self._say(
                f"{len(asked)} transfers and {len(ordered)} orders, {names} paused so that {len(open_gids)} are sure "
                f"to be undecided: SIGKILL to the manager and to {self._shop.name}"
            )
            self._say(
                f"{names} go on; manager and {self._shop.name} start again, the manager takes over what it had when "
                f"its lease of {LEASE} s has run out; the clients just wait"
            )
            await asyncio.gather(self.manager.start(), self._shop.server.start())
        mine = {order.payment.gid for order in ordered}
        shop_kill = ShopKill(
            tuple(gid for gid in open_gids if gid in mine), tuple(gid for gid in answered if gid in mine), shop_code
        )
        return ManagerKill(open_gids, answered, manager_code), shop_kill

    async def _undecided(self, manager: tcc.Manager, asked: Sequence[Transfer]) -> tuple[str, ...]:
        """Those that nobody refuses and whose clients wait, once the manager has them all, undecided."""
        while True:
            waiting = {one.gid for one in asked if not one.refused_with and one.gid not in self._told}
            undecided = {view.gid async for view in manager.list(states=[tcc.State.TRYING])}
            if undecided >= waiting:
                return tuple(sorted(waiting))
            await asyncio.sleep(POLL)

    async def _carry_out(self, manager: tcc.Manager, asked: Sequence[Transfer], ordered: Sequence[Order]) -> None:
        async def transferred(transfer: Transfer) -> None:
            self._hear(transfer, await carry_out(manager, transfer))

        async def placed(order: Order) -> None:
            self._hear(order.payment, await self._shop.order(order))

        await asyncio.gather(*map(transferred, asked), *map(placed, ordered))

    def _hear(self, transfer: Transfer, told: Told) -> None:
        self._told[transfer.gid] = told
        self._answered(told)

    async def _books(self) -> dict[str, Books]:
        return {name: await bank.books() for name, bank in self._banks.items()}


async def _stop(servers: Sequence[Server]) -> None:
    await asyncio.gather(*(server.stop() for server in servers))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
