"""What must hold after every run, whatever went wrong in it. The names are those of the promises' checks."""

from __future__ import annotations

from collections import defaultdict

from tcc.v1 import transaction_pb2
from tcc_server.core.model import Decision, Moment, Reservation, State
from tcc_server.log.codec import decode
from tests.simulation.bank import OPENING
from tests.simulation.world import WALL, World


def violations(world: World) -> list[str]:
    """Every broken promise, in words."""
    found: list[str] = []
    final = world.final()
    effects: dict[str, set[str]] = defaultdict(set)
    for bank in world.banks.values():
        found += bank.violations
        for (gid, step, phase), count in bank.effects.items():
            effects[gid].add(phase)
            if count > 1:
                found.append(f"S7: {phase} of {gid}/{step} happened {count} times")
    for gid, phases in effects.items():
        if gid not in final:
            found.append(f"S10: {gid} had effects and is not in the log")
        elif {"confirm", "cancel"} <= phases and final[gid].state is not State.MIXED:
            found.append(f"S1: {gid} has confirmed and cancelled branches")
    found += _decisions(world)
    for command in world.commands:
        tx = final.get(command.gid)
        wanted = Decision.CONFIRM if command.phase == transaction_pb2.PHASE_CONFIRM else Decision.CANCEL
        if tx is None or tx.decision is not wanted:
            found.append(f"S4: a command of {command.gid} has no decision in the log")
    for gid, told in world.told.items():
        if told.acknowledged and gid not in final:
            found.append(f"S10: {gid} was acknowledged and is gone")
        if len(set(told.decisions)) > 1:
            found.append(f"S11: {gid} got different answers {told.decisions}")
        if gid in final and told.decisions and final[gid].decision is not told.decisions[0]:
            found.append(f"S5: {gid} was told {told.decisions[0]} and is {final[gid].decision}")
    for bank in world.banks.values():
        for gid, step in bank.reserved:
            state = final[gid].state if gid in final else "unknown"
            found.append(f"S9: {bank.name} still holds {gid}/{step}, which is {state}")
    total = sum(bank.available for bank in world.banks.values())
    if not world.stuck and total != OPENING * len(world.banks):
        found.append(f"S6: there are {total} in all, not {OPENING * len(world.banks)}")
    found += [f"L1: {gid} did not end, it is {final[gid].state}" for gid in world.stuck]
    found += [f"{gid} is MIXED without anybody's fault" for gid, tx in final.items() if tx.state is State.MIXED]
    return found


def _decisions(world: World) -> list[str]:
    found = []
    decided: dict[str, Decision] = {}
    for row in world.rows:
        tx = decode(row, Moment(0.0, WALL))
        gid = row.key.gid
        if tx.decision is None:
            if gid in decided:
                found.append(f"S2: {gid} was decided and then undecided")
            continue
        if decided.setdefault(gid, tx.decision) is not tx.decision:
            found.append(f"S2: {gid} was decided {decided[gid]} and then {tx.decision}")
        holes = [b for b in tx.branches if b.reservation not in (Reservation.RESERVED, Reservation.REFUSED)]
        if tx.decision is Decision.CONFIRM and holes:
            found.append(f"S3: {gid} was decided Confirm over {holes[0].ask.step}: {holes[0].reservation.name}")
    return found
