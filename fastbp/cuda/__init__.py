"""The CUDA engine: the same names and argument order as ``fastbp.cpu``, for a GPU."""


class DeviceError(RuntimeError):
    """A GPU can't be used; the words say why and what to do."""
