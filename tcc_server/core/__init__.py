"""The pure core: what a transaction is and what to do about it. No I/O, no clock, no randomness, no asyncio.

Read in this order: `model` (what there is), `rules` (the contract's tables as data), `messages` (what comes in and what
goes out), `evolve` (what an event changes), `decide` (what a signal means).
"""
