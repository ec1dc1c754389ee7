"""A Try's item that is put together from parts is the message that it stands for."""

from __future__ import annotations

from hypothesis import example, given, strategies as st

from tcc.tracing import TraceParent
from tcc.v1.participant_pb2 import TryStreamRequest
from tcc.v1.transaction_pb2 import Metadata, Methods as MethodsMessage
from tcc_server.caller import metadata
from tcc_server.caller.seam import TryCall
from tcc_server.caller.try_item import try_item
from tcc_server.core.model import Ask, Key, Methods

IDS = st.text("aZ0._~-", min_size=1, max_size=64)
PATHS = st.builds("/{}/{}".format, st.text("ab.", min_size=1, max_size=100), st.text("AB", min_size=1))
TRACES = st.one_of(
    st.just(TraceParent()),
    st.builds(TraceParent, st.text("0123456789abcdef-", min_size=1, max_size=200), st.text("a=1,", max_size=200)),
    st.builds(
        TraceParent, st.text("0\ufffd", min_size=1, max_size=200), st.text("a\ufffd", max_size=200)
    ),  # strangers'
)
CALLS = st.builds(
    TryCall,
    st.builds(Key, IDS, IDS),
    st.builds(
        Ask,
        IDS,
        IDS,
        st.builds(Methods, PATHS, PATHS, PATHS),
        st.binary(max_size=40_000),
        st.binary(max_size=80),
        metadata=st.lists(st.tuples(st.sampled_from(["x-a", "x-b-bin"]), st.just(b"value")), max_size=3).map(tuple),
    ),
    st.integers(1, 100_000),
    st.one_of(st.just(10.0), st.floats(0.001, 3600)),
    st.floats(0, 4_000_000_000),
    TRACES,
)
LONGEST = TryCall(
    Key("n" * 64, "g" * 64), Ask("s" * 64, "p", Methods("/a/A", "/a/B", "/a/C"), b"", b"h" * 16), 1, 10.0, 4e9
)


@given(st.integers(1, 2**40), CALLS)
@example(1, LONGEST)
def test_the_bytes_are_those_of_the_message(number: int, call: TryCall) -> None:
    told = TryStreamRequest.Item.FromString(try_item(number, call, *call.trace))
    ordered, told_metadata = message(number, call), sorted(told.metadata, key=lambda entry: (entry.key, entry.value))
    assert told_metadata == sorted(ordered.metadata, key=lambda entry: (entry.key, entry.value))
    del told.metadata[:], ordered.metadata[:]
    assert told == ordered
    own = [entry for entry in metadata.of_try(call, call.trace) if entry[0].startswith("x-")]
    assert [entry[0] for entry in own] == [key for key, _ in call.ask.metadata]


def message(number: int, call: TryCall) -> TryStreamRequest.Item:
    """The item, built as messages are."""
    methods = call.ask.methods
    item = TryStreamRequest.Item(
        id=number,
        request=call.ask.request,
        methods=MethodsMessage(
            try_method=methods.try_method, confirm_method=methods.confirm_method, cancel_method=methods.cancel_method
        ),
        metadata=[
            Metadata(key=key, value=value if isinstance(value, bytes) else value.encode())
            for key, value in metadata.of_try(call, call.trace)
        ],
    )
    item.timeout.seconds = seconds = int(call.timeout)
    item.timeout.nanos = int((call.timeout - seconds) * 1e9)
    return item
