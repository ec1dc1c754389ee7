"""Locks keep two deliveries of one command from working side by side: for speed, since the fence makes it right."""

from tcc.lock._seam import Busy, Held, ListLock, Lock, NoLock

__all__ = ["Busy", "Held", "ListLock", "Lock", "NoLock"]
