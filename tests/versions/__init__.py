"""Processes of different versions of grpcio and protobuf, talking to each other."""
