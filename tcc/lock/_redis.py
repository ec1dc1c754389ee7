"""The lock in Redis: a key with a fresh token and a time to live, taken and given back by a Lua script.

The laws: Redis can only cost speed. Whatever it does or does not do, `acquire` answers within a few `timeout`s, and
work goes on without the lock where it must (counted in `bypasses`). And nobody but its holder gives a key back: a
release names its token. What is acquired and released at the same time leaves in one list: one call of one script.

redis-py's own retries are off: repeated blindly, an acquire whose reply was lost would find its own key and call it
busy. The script knows its own token again instead.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Final, TypeAlias

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
    NoScriptError,
    RedisError,
    ResponseError,
    TimeoutError as RedisTimeout,
)

from tcc.batching import Batcher, BatcherClosed
from tcc.errors import UsageError
from tcc.lock._seam import Busy, Held, NoLock

_log = logging.getLogger("tcc.lock")

PREFIX: Final = "tcc:lock:"

_SCRIPT: Final = """
local answers = {}
local asked = string.gmatch(ARGV[1], '(%S+) (%d+)')
for i, key in ipairs(KEYS) do
  local token, ttl = asked()
  ttl = tonumber(ttl)
  local answer = 0
  local holder = redis.pcall('GET', key)
  if type(holder) == 'table' then
    answer = holder.err
  elseif ttl == 0 then
    if holder == token then redis.call('DEL', key) end
  elseif holder == token then
    redis.call('PEXPIRE', key, ttl)
  else
    local left = -1
    if holder then left = redis.call('PTTL', key) end
    if left >= 0 then
      answer = math.max(left, 1)
    else
      local set = redis.pcall('SET', key, token, 'PX', ttl)
      if set.err then answer = set.err end
    end
  end
  answers[i] = answer
end
return answers
"""
"""For each key a token, and a time to live in ms, or 0 to give the key back where the token holds it. They come in one
argument, with spaces between: redis-py takes longer over an argument than Redis over the whole key.

Answers 0 where that is done, the milliseconds that another holder has left, or the text of an error, which is of this
key alone. A key without an end is nobody's lock (each is set with one): it is taken over.
"""

_BUSY_WAIT: Final = 0.05
_PROBE_FIRST, _PROBE_MAX = 0.05, 1.0
_OWED_MAX: Final = 10_000
_LIST_MAX: Final = 512

_SHA: Final = hashlib.sha1(_SCRIPT.encode()).hexdigest()  # noqa: S324  Redis's own naming of scripts
_CUT_OFF: Final = (RedisConnectionError, RedisTimeout, OSError, TimeoutError)
"""Nobody knows what the server did, and asking again would cost the next one its time too."""


class _Asked:
    """What is asked of some keys at once, for which there is one answer, a list.

    Args:
        helds: the locks, each of its own execution.
        ttl_ms: for which they are taken; 0: they are given back.
    """

    __slots__ = ("helds", "ttl_ms")

    def __init__(self, helds: Sequence[_Held], ttl_ms: int) -> None:
        self.helds = helds
        self.ttl_ms = ttl_ms


_Reply: TypeAlias = int | Exception
"""Of one key: 0 where it is done, the milliseconds that another holder has left, or an error."""


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
        self._batcher = Batcher[_Asked, list[_Reply]](
            self._send, max_items=_LIST_MAX, max_bytes=_LIST_MAX, size_of=lambda asked: len(asked.helds)
        )
        self._bypasses = 0
        self._troubled = False
        self._away = False
        self._owed: dict[str, _Held] = {}
        self._name = secrets.token_hex(12)
        self._count = 0
        self._looking: asyncio.Task[None] | None = None
        self._probing: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def bypasses(self) -> int:
        """How many times work went on without the lock, because Redis did not answer or refused."""
        return self._bypasses

    async def acquire(self, key: str, ttl: float) -> Held | Busy:
        """Takes the lock; waits 50 ms where somebody else holds it, and asks once more. Never raises for Redis."""
        (answer,) = await self.acquire_all((key,), ttl)
        if isinstance(answer, Busy):
            await asyncio.sleep(_BUSY_WAIT)
            (answer,) = await self.acquire_all((key,), ttl)
        return answer

    async def acquire_all(self, keys: Sequence[str], ttl: float) -> Sequence[Held | Busy]:
        """Takes what is free of some locks, by one word to Redis; see `ListLock`."""
        if self._away:
            return self._bypassed(keys)
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look(), name="redis-lock-look")
        first = self._count + 1
        self._count += len(keys)
        helds = [_Held(self, (PREFIX + key).encode(), f"{self._name}-{count}") for count, key in enumerate(keys, first)]
        try:
            replies = await self._batcher.put(_Asked(helds, max(1, int(ttl * 1000))))
        except (_Away, BatcherClosed):
            return self._bypassed(keys)
        except (RedisError, OSError, TimeoutError):
            self._bypasses += len(keys)
            return helds  # they may have been taken, and only the reply was lost
        except asyncio.CancelledError:
            self._give_back(helds)
            raise
        if not any(replies):
            return helds
        answers: list[Held | Busy] = []
        for held, reply in zip(helds, replies, strict=True):
            if isinstance(reply, Exception):
                self._bypasses += 1
            answers.append(Busy(reply / 1000) if isinstance(reply, int) and reply else held)
        return answers

    def release_all(self, locks: Iterable[Held]) -> None:
        """Gives locks back, with the next list; see `ListLock`."""
        self._give_back([held for held in locks if isinstance(held, _Held)])

    async def close(self) -> None:
        """Gives back what is held here, where Redis answers, and closes the connection. Repeating it does nothing."""
        self._closed = True
        if self._looking is not None:
            await asyncio.wait({self._looking})
        await self._batcher.close()
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait({self._probing})
        await self._redis.aclose()

    def _give_back(self, helds: Sequence[_Held]) -> None:
        """Nobody waits for it, so nobody's cancellation can lose it."""
        if helds:
            with suppress(BatcherClosed):  # released after `close`: the key runs out by itself
                self._batcher.post(_Asked(helds, 0))

    def _bypassed(self, keys: Sequence[str]) -> Sequence[Held]:
        self._bypasses += len(keys)
        return [_NOT_HELD] * len(keys)

    def _owe(self, asked: Sequence[_Asked]) -> None:
        """Releases that did not reach the server; one that it refused is logged, and its key runs out by itself."""
        for each in asked:
            for held in each.helds if not each.ttl_ms else ():
                if len(self._owed) >= _OWED_MAX:  # away for long: the oldest keys have run out by now, or soon will
                    del self._owed[next(iter(self._owed))]
                self._owed[held.token] = held

    # One list at a time

    async def _send(self, asked: Sequence[_Asked]) -> Sequence[list[_Reply]]:
        if self._away:
            self._owe(asked)
            raise _Away
        try:
            replies = await self._exchange(asked)
        except _CUT_OFF as error:
            self._owe(asked)
            self._note(error)
            self._away = True
            if not self._closed:
                self._probing = asyncio.get_running_loop().create_task(self._probe(), name="redis-lock-probe")
            raise
        answers = []
        taken: list[_Reply] = []
        begin = 0
        for each in asked:
            answer = replies[begin : begin + len(each.helds)]
            begin += len(answer)
            answers.append(answer)
            if each.ttl_ms:
                taken += answer
        if taken:  # a server that refuses to write takes releases: they prove nothing
            self._note(next((reply for reply in taken if reply and isinstance(reply, Exception)), None))
        return answers

    async def _exchange(self, asked: Sequence[_Asked]) -> list[_Reply]:
        """One round trip; two where the server does not have the script, as after its restart."""
        keys = [held.key for each in asked for held in each.helds]
        tokens = " ".join([f"{held.token} {each.ttl_ms}" for each in asked for held in each.helds])
        async with asyncio.timeout(self._timeout):
            try:
                answers = await self._run(keys, tokens)
            except ResponseError as error:  # all of it was refused
                return [error] * len(keys)
        return [answer if isinstance(answer, int) else ResponseError(_text(answer)) for answer in answers]

    async def _run(self, keys: Sequence[bytes], asked: str) -> list[int | bytes]:
        answers: list[int | bytes]
        try:
            answers = await self._redis.evalsha(_SHA, len(keys), *keys, asked)
        except NoScriptError:
            answers = await self._redis.eval(_SCRIPT, len(keys), *keys, asked)
        return answers

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
                    await self._exchange([_Asked(releases, 0)])
                else:
                    async with asyncio.timeout(self._timeout):
                        await self._redis.ping()
            except _CUT_OFF:
                continue
            except RedisError as error:  # it answers, if only to refuse
                self._note(error)
            for release in releases:
                self._owed.pop(release.token, None)  # it may have had to make room meanwhile
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
    """A lock that is asked for, and then held, or believed to be."""

    __slots__ = ("_lock", "key", "token")

    def __init__(self, lock: RedisLock, key: bytes, token: str) -> None:
        self._lock = lock
        self.key = key
        self.token = token

    async def release(self) -> None:
        """Gives the lock back, with the next list; does not wait for that."""
        self._lock.release_all((self,))


_NOT_HELD: Final = NoLock()
"""What work goes on with while Redis is away."""


def _text(answer: bytes | str) -> str:
    return answer.decode(errors="replace") if isinstance(answer, bytes) else answer
