"""Runs a shop's orders:

python -m services.orders --listen 127.0.0.1:50063 --database orders.db --name orders \\
    --manager 127.0.0.1:7070 --inventory inventory --bank bank-a --shop shop
"""

from __future__ import annotations

import tcc
from services._database import opened
from services._server import Options, main, parser, participant_server, run, traced
from services.orders._book import METADATA, Book, Terms
from services.orders._placing import Placing
from services.orders._service import Orders, Placement
from services.orders.v1.orders_pb2_grpc import add_OrdersServicer_to_server, add_PlacementServicer_to_server

CONNECT_TIMEOUT = 2.0
"""Seconds until a customer is told that the manager is away; the order is gone on with anyway."""


async def serve(options: Options, manager_at: str, terms: Terms) -> None:
    """Serves a shop's orders until SIGTERM."""
    for name in (terms.inventory, terms.bank):
        tcc.plan.participant(name)  # a name that can't be is said now, not to the first customer
    async with (
        opened(options.database, METADATA) as fence,
        traced(options) as spans,
        tcc.Manager(manager_at, connect_timeout=CONNECT_TIMEOUT, tracer_provider=spans) as manager,
    ):
        book = Book(fence)
        async with Placing(book, manager) as placing:
            server = participant_server(options, fence, spans)
            add_PlacementServicer_to_server(Placement(fence), server)
            add_OrdersServicer_to_server(Orders(book, placing, terms), server)
            await run(server, options, "orders")


if __name__ == "__main__":
    command = parser("orders", "A shop's orders.", port=50063, name="orders")
    command.add_argument("--manager", default="127.0.0.1:7070", help="the TCC manager, host:port")
    command.add_argument("--inventory", default="inventory", help="the participant that has the stock")
    command.add_argument("--bank", default="bank", help="the participant that has the accounts")
    command.add_argument("--shop", default="", help="the account that is credited; without it none is")
    given = command.parse_args()
    own = Options.of(given)
    main(command, serve(own, given.manager, Terms(own.name, given.inventory, given.bank, given.shop)))
