"""Makes sure that RabbitMQ, Redis and PostgreSQL are installed for the tests, which start private instances themselves.

    python tools/servers.py

As root on Debian it installs what is missing, without letting it start by itself. Otherwise it says what to install.
Servers that run elsewhere are taken from TCC_TEST_RABBITMQ_URL, TCC_TEST_REDIS_URL and TCC_TEST_POSTGRES_URL.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NEEDED = {
    "rabbitmq-server": ("TCC_TEST_RABBITMQ_URL", lambda: Path("/usr/lib/rabbitmq/bin/rabbitmq-server").exists()),
    "redis-server": ("TCC_TEST_REDIS_URL", lambda: shutil.which("redis-server") is not None),
    "postgresql": ("TCC_TEST_POSTGRES_URL", lambda: any(Path("/usr/lib/postgresql").glob("*/bin/postgres"))),
}
POLICY = Path("/usr/sbin/policy-rc.d")


def main() -> int:
    """Install or tell; the exit code."""
    missing = [name for name, (url, is_there) in NEEDED.items() if not os.environ.get(url) and not is_there()]
    if not missing:
        return 0
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    if os.geteuid() or shutil.which("apt-get") is None:
        urls = ", ".join(NEEDED[name][0] for name in missing)
        print(
            f"servers: the tests need {', '.join(missing)}. As root on Debian: apt-get install {' '.join(missing)}\n"
            f"  (they need not run; or name servers that do by {urls})",
            file=sys.stderr,
        )
        return 1
    print(f"servers: installing {', '.join(missing)}", file=sys.stderr)
    keep_policy = POLICY.exists()
    if not keep_policy:  # Debian asks this script whether a service may start; none may
        POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
        POLICY.chmod(0o755)
    try:
        environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for step in (["apt-get", "update", "-qq"], command):
            done = subprocess.run(step, env=environ, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            if done.returncode:
                sys.stderr.buffer.write(done.stdout[-4000:])
                print(f"servers: {' '.join(step)} failed", file=sys.stderr)
                return 1
    finally:
        if not keep_policy:
            POLICY.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
