"""Lists on streams: the two ends of a bidirectional stream of lists, on which every item has its own answer.

The law: what arrives while a list is being written leaves with the next one, at once when none is; so a list has one
item when there is little to do and many under load, and there is no timer. Answers come in any order. A stream that
ends leaves its unanswered items unknown: who asked is told so, and repeats where repeating is safe.
"""

from tcc.streams._answering import ListServer, parts
from tcc.streams._asking import Asked, ListStream, NotOffered, StreamEnded, listed, varint

__all__ = ["Asked", "ListServer", "ListStream", "NotOffered", "StreamEnded", "listed", "parts", "varint"]
