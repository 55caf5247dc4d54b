"""The palaver command."""
