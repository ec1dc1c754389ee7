"""A replica's lease in PostgreSQL: as long as it is renewed, nobody adopts the replica's transactions.

The laws: the row's times are the database's own clock, so no two machines' clocks are compared. This process counts
from when it *sent* its last successful renewal, on its monotonic clock, and stops a margin before the row can expire.
And a lapsed lease is final: a replica that was paused takes a new id, it does not come back as who it was.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tcc_server.log.seam import READER

_log = structlog.get_logger(__name__)

_TAKE = text(
    "INSERT INTO tcc_replica (id, expires_at, format) VALUES (:id, now() + make_interval(secs => :ttl), :format)"
)
_RENEW = text(
    "UPDATE tcc_replica SET expires_at = now() + make_interval(secs => :ttl) "
    "WHERE id = :id AND expires_at > now() RETURNING id"
)
_GIVE_BACK = text("DELETE FROM tcc_replica WHERE id = :id OR expires_at < now() - interval '1 day'")

_RENEWALS = 3
_MARGIN = 0.2
_GIVE_BACK_TIMEOUT = 2.0


class Lease:
    """One replica's lease.

    Args:
        engine: with a connection that is this lease's alone, each statement its own transaction.
        replica: the id under which it is taken; never used before.
        ttl: seconds that it lives without being renewed. It is renewed three times in that time.
    """

    def __init__(self, engine: AsyncEngine, replica: str, ttl: float) -> None:
        self._engine = engine
        self._replica = replica
        self._ttl = ttl
        self._alive_until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._lapsed = asyncio.Event()

    @property
    def is_alive(self) -> bool:
        """This replica may act. Asks the monotonic clock, not the database."""
        return not self._lapsed.is_set() and asyncio.get_running_loop().time() < self._alive_until

    async def lapsed(self) -> None:
        """Returns once the lease has lapsed; not for one that was given back."""
        await self._lapsed.wait()

    async def take(self) -> None:
        """Take it, and renew it from now on. Raises what the database raises."""
        sent = asyncio.get_running_loop().time()
        async with self._engine.connect() as connection:
            await connection.execute(_TAKE, {"id": self._replica, "ttl": self._ttl, "format": READER})
        self._extend(sent)
        self._keeping = asyncio.create_task(self._keep(), name="log-lease")

    async def give_back(self) -> None:
        """Let others adopt at once what is still unfinished. Best effort: without it the lease expires by itself."""
        if self._timer is not None:
            self._timer.cancel()
        if self._keeping is None:
            return
        self._keeping.cancel()
        await asyncio.wait({self._keeping})
        self._alive_until = 0.0
        with suppress(Exception):
            async with asyncio.timeout(_GIVE_BACK_TIMEOUT), self._engine.connect() as connection:
                await connection.execute(_GIVE_BACK, {"id": self._replica})

    async def _keep(self) -> None:
        pause = self._ttl / _RENEWALS
        while not self._lapsed.is_set():
            await asyncio.sleep(pause)
            sent = asyncio.get_running_loop().time()
            try:
                async with self._engine.connect() as connection:
                    renewed = (await connection.execute(_RENEW, {"id": self._replica, "ttl": self._ttl})).first()
            except Exception as error:
                _log.warning("lease_not_renewed", replica=self._replica, error=str(error).partition("\n")[0])
                pause = self._ttl / _RENEWALS / 10
                continue
            if renewed is None:
                self._lapse()
            elif self.is_alive:  # an answer that came too late brings nothing back to life
                self._extend(sent)
            pause = self._ttl / _RENEWALS

    def _extend(self, sent: float) -> None:
        self._alive_until = sent + self._ttl * (1 - _MARGIN)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(self._alive_until, self._lapse)

    def _lapse(self) -> None:
        if not self._lapsed.is_set():
            _log.error(
                "lease_lapsed",
                replica=self._replica,
                hint="the database did not answer in time, or this process was paused; others take over its work",
            )
            self._lapsed.set()
