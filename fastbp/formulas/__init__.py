"""Floor 1: what is computed of single numbers, written once for every engine."""
