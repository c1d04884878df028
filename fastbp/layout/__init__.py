"""Floor 2: layers -> the table that the kernels interpret: offsets, sizes, and the tasks of a step."""
