"""How tests read what the doctor found."""

from __future__ import annotations

from collections.abc import Iterable

from tcc_server.doctor.finding import Finding, Level


def levels(findings: Iterable[Finding]) -> set[Level]:
    return {finding.level for finding in findings}


def only(findings: Iterable[Finding], level: Level) -> Finding:
    """The one finding of that level."""
    [finding] = [finding for finding in findings if finding.level is level]
    return finding


def said(findings: Iterable[Finding]) -> str:
    return "\n".join(f"{finding.subject}: {finding.found}" for finding in findings)
