"""The client's side of the SDK: plans, interactive transactions, and reading what the manager knows.

_manager      Manager: the one object that a client holds
_plan         tcc.plan, on which calling a Try names a branch and sends nothing
_interactive  a transaction in whose channel calling a Try enlists a branch and reserves it
_branches     what both have in common: a grpc.aio.Channel that knows actions
_executed     what `execute` gives back
_views        transactions as readers see them
_repeat       when a call is sent again, and when that ends
_mapping      the manager's statuses as the SDK's errors
_transport    the only place that sends anything
"""
