"""The lock in Redis: a key with a fresh token and a time to live, taken and given back by Lua scripts.

The laws: Redis can only cost speed. Whatever it does or does not do, `acquire` answers within a few `timeout`s, and
work goes on without the lock where it must (counted in `bypasses`). And nobody but its holder gives a key back: a
release names its token. What is acquired and released at the same time leaves in one list, with one round trip.

redis-py's own retries are off: repeated blindly, an acquire whose reply was lost would find its own key and call it
busy. The script knows its own token again instead.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
    NoScriptError,
    RedisError,
    TimeoutError as RedisTimeout,
)

from tcc.batching import Batcher, BatcherClosed
from tcc.errors import UsageError
from tcc.lock._seam import Busy, Held

_log = logging.getLogger("tcc.lock")

PREFIX: Final = "tcc:lock:"

_ACQUIRE: Final = """
local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return 0
end
if not holder then
  redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
  return 0
end
local left = redis.call('PTTL', KEYS[1])
if left < 0 then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return 0
end
return math.max(left, 1)
"""
"""Gives 0 where the token holds the key now, else the milliseconds that the other holder has left.

A key without an end is nobody's lock (each is set with one): it is taken over.
"""

_RELEASE: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
"""

_BUSY_WAIT: Final = 0.05
_PROBE_FIRST, _PROBE_MAX = 0.05, 1.0
_OWED_MAX: Final = 10_000
_LIST_MAX: Final = 512

_SHA: Final = {script: hashlib.sha1(script.encode()).hexdigest() for script in (_ACQUIRE, _RELEASE)}  # noqa: S324  Redis's own naming of scripts
_CUT_OFF: Final = (RedisConnectionError, RedisTimeout, OSError, TimeoutError)
"""Nobody knows what the server did, and asking again would cost the next one its time too."""


@dataclass(frozen=True, slots=True)
class _Ask:
    """One call of a script; without a time to live it is a release."""

    key: str
    token: str
    ttl_ms: int | None = None

    @property
    def script(self) -> str:
        return _RELEASE if self.ttl_ms is None else _ACQUIRE

    @property
    def arguments(self) -> tuple[str | int, ...]:
        return (self.key, self.token) if self.ttl_ms is None else (self.key, self.token, self.ttl_ms)


class _Away(Exception):
    """Redis did not answer a moment ago; it was not asked again."""


class RedisLock:
    """Keeps double deliveries apart by keys in one Redis server (or its failover pair; not a cluster).

        server = tcc.ParticipantServer("localhost:50061", fence=fence, lock=tcc.RedisLock("redis://localhost:6379/0"))

    Redis needs no persistence, and should evict nothing (`maxmemory-policy noeviction`). While it does not answer, or
    refuses to write, work goes on without the lock: the fence makes it right. An outage is logged at its begin and at
    its end; while it does not answer it is asked again once a second, and no command waits for that.

    Args:
        url: `redis://`, `rediss://` (TLS) or `unix://`, as redis-py reads it.
        timeout: seconds that one round trip may take, and one connect, before Redis counts as away.

    Raises:
        UsageError: the URL cannot be read.
    """

    def __init__(self, url: str, *, timeout: float = 0.25) -> None:
        try:
            self._redis: Redis = Redis.from_url(
                url,
                retry=Retry(NoBackoff(), 0),
                retry_on_error=[],
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
            )
        except ValueError as error:
            raise UsageError(
                f"the lock's URL cannot be used ({error}): write it like redis://localhost:6379/0"
            ) from None
        self._timeout = timeout
        self._batcher = Batcher[_Ask, int](
            self._send, max_items=_LIST_MAX, max_bytes=1 << 20, size_of=lambda ask: 128 + len(ask.key)
        )
        self._bypasses = 0
        self._troubled = False
        self._away = False
        self._owed: dict[str, _Ask] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._probing: asyncio.Task[None] | None = None
        self._looked = False
        self._closed = False

    @property
    def bypasses(self) -> int:
        """How many times work went on without the lock, because Redis did not answer or refused."""
        return self._bypasses

    async def acquire(self, key: str, ttl: float) -> Held | Busy:
        """Takes the lock; waits 50 ms where somebody else holds it, and asks once more. Never raises for Redis."""
        if self._away:
            return self._bypass()
        if not self._looked:
            self._looked = True
            self._start(self._look())
        ask = _Ask(PREFIX + key, secrets.token_hex(12), max(1, int(ttl * 1000)))
        try:
            left = await self._batcher.submit(ask)
            if left:
                await asyncio.sleep(_BUSY_WAIT)
                left = await self._batcher.submit(ask)
        except (_Away, BatcherClosed):
            return self._bypass()
        except (RedisError, OSError, TimeoutError):
            return self._bypass(ask)  # it may have been taken, and only the reply was lost
        except asyncio.CancelledError:
            self._start(self._release(ask))
            raise
        return Busy(left / 1000) if left else _Held(lambda: self._start(self._release(ask)))

    async def close(self) -> None:
        """Gives back what is held here, where Redis answers, and closes the connection. Repeating it does nothing."""
        self._closed = True
        await asyncio.gather(*(task for task in self._tasks if task is not self._probing), return_exceptions=True)
        await self._batcher.close()
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait({self._probing})
        await self._redis.aclose()

    def _bypass(self, ask: _Ask | None = None) -> Held:
        self._bypasses += 1
        return _Held(lambda: None if ask is None else self._start(self._release(ask)))

    async def _release(self, ask: _Ask) -> None:
        """Nobody waits for it, so nobody's cancellation can lose it."""
        release = _Ask(ask.key, ask.token)
        try:
            await self._batcher.submit(release)
        except (_Away, *_CUT_OFF):
            self._owe(release)
        except RedisError:
            pass  # refused, and logged: the key runs out by itself
        except BatcherClosed:
            pass  # released after `close`: as above

    def _owe(self, release: _Ask) -> None:
        if len(self._owed) >= _OWED_MAX:  # away for long: the oldest keys have run out by now, or soon will
            del self._owed[next(iter(self._owed))]
        self._owed[release.token] = release

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="redis-lock")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # One list at a time

    async def _send(self, asks: Sequence[_Ask]) -> Sequence[int | Exception]:
        if self._away:
            raise _Away
        try:
            replies = await self._exchange(asks)
        except _CUT_OFF as error:
            self._note(error)
            self._away = True
            if not self._closed:
                self._probing = asyncio.get_running_loop().create_task(self._probe(), name="redis-lock-probe")
            raise
        taken = [reply for ask, reply in zip(asks, replies, strict=True) if ask.ttl_ms is not None]
        if taken:  # a server that refuses to write takes releases: they prove nothing
            self._note(next((reply for reply in taken if isinstance(reply, Exception)), None))
        return replies

    async def _exchange(self, asks: Sequence[_Ask]) -> Sequence[int | Exception]:
        """One round trip; two where the server does not have the scripts, as after its restart."""
        async with asyncio.timeout(self._timeout):
            replies = await self._call(asks, whole=False)
            missing = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
            if missing:
                for at, reply in zip(missing, await self._call([asks[at] for at in missing], whole=True), strict=True):
                    replies[at] = reply
            return replies

    async def _call(self, asks: Sequence[_Ask], *, whole: bool) -> list[int | Exception]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for ask in asks:
                if whole:
                    pipeline.eval(ask.script, 1, *ask.arguments)
                else:
                    pipeline.evalsha(_SHA[ask.script], 1, *ask.arguments)
            replies: list[int | Exception] = await pipeline.execute(raise_on_error=False)
            return replies

    # An outage, from its begin to its end

    async def _probe(self) -> None:
        """Asks until Redis answers, with the releases that it is owed."""
        wait = _PROBE_FIRST
        while self._away:
            await asyncio.sleep(wait)
            wait = min(_PROBE_MAX, wait * 2)
            releases = list(islice(self._owed.values(), _LIST_MAX))
            try:
                if releases:
                    await self._exchange(releases)
                else:
                    async with asyncio.timeout(self._timeout):
                        await self._redis.ping()
            except _CUT_OFF:
                continue
            except RedisError as error:  # it answers, if only to refuse
                self._note(error)
            for release in releases:
                del self._owed[release.token]
            if self._owed:
                wait = 0.0
            else:
                self._away = False
                self._note(None)

    def _note(self, error: Exception | None) -> None:
        """Logs where an outage begins, and where it ends."""
        if error is None:
            if self._troubled:
                _log.warning("the lock's Redis answers again; work went on without the lock %d times", self._bypasses)
            self._troubled = False
        elif not self._troubled:
            self._troubled = True
            _log.warning(
                "the lock's Redis does not serve (%s: %s): work goes on without the lock, only slower where deliveries "
                "meet",
                type(error).__name__,
                str(error) or f"no answer within {self._timeout:g} s",
            )

    async def _look(self) -> None:
        """Warns of a server that may throw away locks that are held."""
        with suppress(*_CUT_OFF, RedisError):
            async with asyncio.timeout(self._timeout):
                memory = await self._redis.info("memory")
            policy = memory.get("maxmemory_policy", "noeviction")
            if policy != "noeviction":
                _log.warning(
                    "the lock's Redis evicts keys when its memory is full (maxmemory-policy %s), locks that are held "
                    "too: set it to noeviction",
                    policy,
                )


class _Held:
    """A lock that is held, or believed to be."""

    __slots__ = ("_give_back",)

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back = give_back

    async def release(self) -> None:
        """Gives the lock back, with the next list; does not wait for that."""
        self._give_back()
