"""One file per system, each readable beside its paper."""
