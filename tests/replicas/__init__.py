"""Several managers on one log."""
