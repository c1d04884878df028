"""Floor 2: what a user hands in: files, frames, arrays and streams, on their way to what the kernels read."""
