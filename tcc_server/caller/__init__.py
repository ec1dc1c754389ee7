"""The Caller seam: invokes a Try with raw bytes."""
