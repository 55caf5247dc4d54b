"""palaver's public SDK."""

__version__ = "0.1.0"
