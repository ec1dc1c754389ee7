"""Runs a warehouse:

python -m services.inventory --listen 127.0.0.1:50062 --database inventory.db --name inventory
"""

from __future__ import annotations

from services._database import opened
from services._server import Options, main, parser, participant_server, run, traced
from services.inventory._database import METADATA
from services.inventory._service import Inventory
from services.inventory.v1.inventory_pb2_grpc import add_InventoryServicer_to_server


async def serve(options: Options) -> None:
    """Serves a warehouse until SIGTERM."""
    async with opened(options.database, METADATA) as fence, traced(options) as spans:
        server = participant_server(options, fence, spans)
        add_InventoryServicer_to_server(Inventory(fence), server)
        await run(server, options, "inventory")


if __name__ == "__main__":
    command = parser("inventory", "A warehouse's stock.", port=50062, name="inventory")
    main(command, serve(Options.of(command.parse_args())))
