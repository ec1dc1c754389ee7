#!/bin/sh
# first cut, replaced by `make protos`
set -e
P=${GEN_PY:-/tmp/w/g/bin/python}
$P -m grpc_tools.protoc -Iprotos --python_out=. --grpc_python_out=. --plugin=protoc-gen-mypy=.venv/bin/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=.venv/bin/protoc-gen-mypy_grpc --mypy_out=. --mypy_grpc_out=. $(find protos -name '*.proto')
for f in $(find tcc tcc_server services -name '*_pb2_grpc.py*'); do grep -q "Stub" $f || rm $f; done
mkdir -p tcc/_protos/tcc && rm -rf tcc/_protos/tcc && cp -r protos/tcc tcc/_protos/tcc
