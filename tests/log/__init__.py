"""The Log seam: one contract suite for every implementation, and what is particular to each."""
