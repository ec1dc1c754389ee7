"""What is kept of requests is bounded, whatever clients send."""

from __future__ import annotations

import pytest

from tcc.v1 import manager_pb2, transaction_pb2
from tcc_server.api import requests
from tcc_server.api.requests import Limits, Requests

OURS = transaction_pb2.Methods(try_method="/a.B/TryC", confirm_method="/a.B/ConfirmC", cancel_method="/a.B/CancelC")
STRANGE = b"\xfa\x3f" + b"\x80\x80\x40" + bytes(1 << 20)
"""A field that is none of ours, with a MiB in it."""


def test_methods_with_fields_of_strangers_are_taken_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "_KNOWN_METHODS", {})
    for content in (b"", STRANGE):
        methods = transaction_pb2.Methods.FromString(OURS.SerializeToString() + content)
        (ask,) = Requests(None, Limits()).plan([manager_pb2.PlannedBranch(participant="p", methods=methods)])
        assert ask.methods == ("/a.B/TryC", "/a.B/ConfirmC", "/a.B/CancelC")
    assert list(requests._KNOWN_METHODS) == [OURS.SerializeToString()]
