"""The TCC manager: reserves through Try, decides once and durably, and carries the decision out."""
