"""What travels between a peer and the broker: records in frames, and their limits. Pure; see docs/wire.md."""
