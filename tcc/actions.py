"""Actions: the method option `(tcc.v1.action)` read from descriptors.

The option on a Try names its Confirm and Cancel, so neither clients nor participants register anything a second time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from tcc.errors import UsageError
from tcc.v1 import options_pb2


@dataclass(frozen=True, slots=True)
class Action:
    """An action's three methods, each as a full path `/package.Service/Method`."""

    try_method: str
    confirm_method: str
    cancel_method: str

    @property
    def service(self) -> str:
        """The full name of the gRPC service, without slashes."""
        return self.try_method[1:].rpartition("/")[0]


@cache
def action_of(path: str) -> Action | None:
    """The action whose Try is the method at `path`; None where that method is no Try or its service is not known here.

    Raises:
        UsageError: the option names a method that the service does not have, or that does not fit.
    """
    service_name, _, method_name = path.removeprefix("/").rpartition("/")
    try:
        service = descriptor_pool.Default().FindServiceByName(service_name)
    except KeyError:
        return None
    method = service.methods_by_name.get(method_name)
    return None if method is None else _read(service, method)


@cache
def actions_of(service_name: str) -> tuple[Action, ...]:
    """All actions of a service, in the order of its proto; empty where it has none or is not known here.

    Raises:
        UsageError: an option names a method that the service does not have, or that does not fit, or two actions share
            a Confirm or Cancel method.
    """
    try:
        service: ServiceDescriptor = descriptor_pool.Default().FindServiceByName(service_name)
    except KeyError:
        return ()
    actions = tuple(action for method in service.methods if (action := _read(service, method)) is not None)
    owner: dict[str, Action] = {}
    for action in actions:
        for path in (action.try_method, action.confirm_method, action.cancel_method):
            other = owner.setdefault(path, action)
            if other is not action:
                raise UsageError(
                    f"{path} belongs to two actions, {other.try_method} and {action.try_method}: "
                    "give each action its own Confirm and Cancel"
                )
    return actions


def _read(service: ServiceDescriptor, method: MethodDescriptor) -> Action | None:
    options = method.GetOptions()
    if not options.HasExtension(options_pb2.action):
        return None
    option = options.Extensions[options_pb2.action]
    _check_unary(method)
    if option.confirm == option.cancel:
        raise UsageError(
            f"option (tcc.v1.action) of {service.full_name}.{method.name} names {option.confirm} as its confirm and as "
            "its cancel: Try, Confirm and Cancel are three methods"
        )
    return Action(
        _path(service, method.name),
        _named(service, method, "confirm", option.confirm),
        _named(service, method, "cancel", option.cancel),
    )


def _named(service: ServiceDescriptor, tried: MethodDescriptor, role: str, name: str) -> str:
    where = f"option (tcc.v1.action) of {service.full_name}.{tried.name}"
    if not name:
        raise UsageError(f"{where} has no {role}: name one of the service's methods")
    method = service.methods_by_name.get(name)
    if method is None:
        raise UsageError(f"{where} names {role}: {name!r}, which is no method of {service.full_name}")
    if name == tried.name:
        raise UsageError(f"{where} names itself as its {role}: Try, Confirm and Cancel are three methods")
    _check_unary(method)
    if method.input_type.full_name != tried.input_type.full_name:
        raise UsageError(
            f"{where}: {name} takes {method.input_type.full_name}, but Confirm and Cancel get the Try's request, "
            f"{tried.input_type.full_name}"
        )
    return _path(service, name)


def _check_unary(method: MethodDescriptor) -> None:
    if method.client_streaming or method.server_streaming:
        raise UsageError(f"{method.full_name} is streaming: Try, Confirm and Cancel are unary")


def _path(service: ServiceDescriptor, method: str) -> str:
    return f"/{service.full_name}/{method}"
