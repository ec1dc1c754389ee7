"""The Redis of the participants' locks: whether it answers, may be written, and keeps the locks that it was given.

Losing locks is never wrong, only slower: the fences keep every effect single. So only what makes every command go on
without its lock is a problem. The probe runs the lock's own commands on a key that nobody has, in such a way (`SET …
XX`) that none of them writes anything.
"""

from __future__ import annotations

import secrets
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, ReadOnlyError, RedisError, ResponseError
from redis.retry import Retry

from tcc_server.doctor.finding import Finding, ok, problem, warning

SUBJECT = "redis"

_TIMEOUT = 3.0

_PROBE = """
redis.call('GET', KEYS[1])
redis.call('SET', KEYS[1], 'x', 'XX', 'PX', 1)
redis.call('PEXPIRE', KEYS[1], 1)
redis.call('PTTL', KEYS[1])
redis.call('DEL', KEYS[1])
return 1
"""
"""SET is the first that writes: after any write, a script may go on although the memory is full."""

_GRANT = "~tcc:lock:* +eval +evalsha +get +set +del +pexpire +pttl +ping +info"


async def check_redis(url: str) -> list[Finding]:
    """Look at a Redis.

    Args:
        url: as for `tcc.RedisLock`.
    """
    try:
        client = Redis.from_url(
            url,
            retry=Retry(NoBackoff(), 0),
            retry_on_error=[],
            socket_timeout=_TIMEOUT,
            socket_connect_timeout=_TIMEOUT,
            decode_responses=True,
        )
    except ValueError as error:
        return [problem(SUBJECT, f"the URL cannot be used ({error})", "write it like redis://localhost:6379/0")]
    async with client:
        return await _look(client, _where(url))


async def _look(client: Redis, where: str) -> list[Finding]:
    try:
        await client.ping()
    except AuthenticationError as error:
        return [problem(SUBJECT, f"{where} does not let us in ({error})", "check user and password of the URL")]
    except ResponseError as error:
        return [problem(SUBJECT, f"{where} refuses to serve ({error})", "see to what it says")]
    except (RedisError, OSError) as error:
        return [
            problem(
                SUBJECT,
                f"{where} does not answer ({error}): until it does, work goes on without locks, only slower",
                "start it, or check the URL",
            )
        ]
    try:
        facts: dict[str, Any] = await client.info("default")
    except RedisError as error:
        return [
            await _writable(client, where),
            warning(
                SUBJECT,
                f"INFO is refused ({error}), so eviction and persistence are not known",
                "grant this user +info, or look by redis-cli: maxmemory-policy has to be noeviction",
            ),
        ]
    return [await _writable(client, where), *_kind(facts), _eviction(facts), *_persistence(facts)]


async def _writable(client: Redis, where: str) -> Finding:
    try:
        await client.eval(_PROBE, 1, f"tcc:lock:{{doctor/{secrets.token_hex(8)}}}:0")
    except ReadOnlyError:
        return problem(SUBJECT, f"{where} is a replica, which only reads", "give the URL of the primary")
    except (RedisError, OSError) as error:
        # A script that may not run one of its commands says so in words alone.
        if isinstance(error, NoPermissionError) or "run this command" in str(error) or "access" in str(error):
            return problem(SUBJECT, f"{where} refuses this user what locks need ({error})", f"ACL SETUSER … {_GRANT}")
        return problem(
            SUBJECT,
            f"{where} refuses to write ({error}): every command goes on without its lock",
            "see to what it says",
        )
    return ok(SUBJECT, f"{where} answers, and takes locks")


def _kind(facts: dict[str, Any]) -> list[Finding]:
    if str(facts.get("redis_mode", "standalone")) == "cluster":
        return [
            problem(
                SUBJECT,
                "it is a cluster, which tcc.RedisLock cannot use",
                "use a single server or a failover pair: locks are small",
            )
        ]
    return []


def _eviction(facts: dict[str, Any]) -> Finding:
    policy = str(facts.get("maxmemory_policy", "unknown"))
    if policy == "noeviction":
        return ok(SUBJECT, "it evicts nothing (maxmemory-policy noeviction)")
    return warning(
        SUBJECT,
        f"it throws keys away when its memory is full (maxmemory-policy {policy}), locks that are held too",
        "redis-cli CONFIG SET maxmemory-policy noeviction, and the same in redis.conf",
    )


def _persistence(facts: dict[str, Any]) -> list[Finding]:
    found = []
    if facts.get("rdb_last_bgsave_status", "ok") != "ok" or facts.get("aof_last_write_status", "ok") != "ok":
        found.append(
            warning(
                SUBJECT,
                "its last write to disk failed; it may refuse to take locks until one succeeds",
                "look into its log; most often the disk is full",
            )
        )
    if int(facts.get("aof_enabled", 0)):
        found.append(ok(SUBJECT, "it keeps locks over a restart (appendonly yes)"))
    else:
        found.append(
            ok(
                SUBJECT,
                "it forgets held locks when it is restarted (appendonly no), which costs double work at most: "
                "the fences let no effect happen twice",
            )
        )
    return found


def _where(url: str) -> str:
    read = urlsplit(url)
    return f"Redis at {read.path}" if read.scheme == "unix" else f"Redis at {read.hostname}:{read.port or 6379}"
