"""The async shell: takes a signal, asks the core, appends, then performs the effects, and nothing else."""
