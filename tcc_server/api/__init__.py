"""The manager's gRPC face: checks what comes in, asks the engine, and says what it answers."""
