"""Spans of the toolkit: one trace a transaction, from the client's call to the last outcome.

Spans are short: none stays open across a wait for something else. Names and attributes are the semantic conventions'
where they have any, and `tcc.*` where they have none. Without an OpenTelemetry SDK in the process nothing is recorded
and the context passes through unchanged.
"""

from tcc.tracing._spans import Rpc, Tags, TraceParent, Tracing

__all__ = ["Rpc", "Tags", "TraceParent", "Tracing"]
