"""Every decision of the bus, as pure code: no socket, clock, file, random or log."""
