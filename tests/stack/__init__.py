"""The whole stack: two managers on a log in PostgreSQL, banks on fences in PostgreSQL, RabbitMQ, locks in Redis."""
