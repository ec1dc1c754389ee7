"""RabbitMQ as both ends use it: names, declarations, a connection that is kept up, publishing, consuming commands."""
