"""Private servers for tests: RabbitMQ, Redis and PostgreSQL on loopback, on free ports, in temporary folders.

Each is a class with `start`, `stop`, `kill` (SIGKILL) and `url`; nothing is left running, nothing outside the folder is
touched. A server that is not installed is a failure that says what to install.
"""
