"""Models behind HTTP: clips are scored, machines are shown."""
