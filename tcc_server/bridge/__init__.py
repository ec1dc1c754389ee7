"""`tcc bridge`: consumes commands for services that are built without the SDK, and calls their methods."""
