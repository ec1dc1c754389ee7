"""The demo: bank transfers while processes are killed, and the proof that no money was lost or made.

`make demo`, or `python -m services.demo`. Read `_story.py` first: it is what happens, in order.
"""
