"""Floor 3: the CPU engine. tile (micro-kernels) -> rows (phase one), weights (phase two) -> engine (who runs what)."""
