"""The manager's log: one seam, and its implementations."""
