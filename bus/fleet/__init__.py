"""The fleet file, and launching and supervising its processes."""
