"""The agent's side of the bus."""
