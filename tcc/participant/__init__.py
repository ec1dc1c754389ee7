"""The participant's side: a server whose Try, Confirm and Cancel each happen once."""

from tcc.participant._answer import TryAnswer
from tcc.participant._batchable import batchable
from tcc.participant._branch import Branch, branch
from tcc.participant._context import PhaseContext
from tcc.participant._runtime import ParticipantRuntime
from tcc.participant._server import ParticipantServer

__all__ = ["Branch", "ParticipantRuntime", "ParticipantServer", "PhaseContext", "TryAnswer", "batchable", "branch"]
