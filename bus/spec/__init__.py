"""The protocol language: YAML in, immutable ``Protocol`` out. Pure but for ``loader``."""
