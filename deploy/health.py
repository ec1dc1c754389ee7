"""Asks a gRPC server's health service, for a container's health check.

python health.py 127.0.0.1:7070

Exits with 0 where it is SERVING, else with 1.
"""

from __future__ import annotations

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def main(address: str) -> int:
    """The exit code."""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=3)
        except grpc.RpcError as error:
            print(error)
            return 1
    print(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
    return int(answer.status != health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
