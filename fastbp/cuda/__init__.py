"""The CUDA engine: the same names and argument order as ``fastbp.cpu``, for a GPU."""
