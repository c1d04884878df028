"""A GPU's place without a GPU: what numba-cuda asks a device for is answered, and code ends as machine code.

Import it in a process of its own, without the simulator: NVVM and nvJitLink need neither a GPU nor a driver.
"""

import os
from types import SimpleNamespace
from typing import Any

os.environ.pop("NUMBA_ENABLE_CUDASIM", None)  # read when Numba is imported

import numpy as np

from fastbp.cuda import bound, device


def stand_in(capability: tuple[int, int]) -> None:
    """Compile for such a GPU from now on; kernels are loaded onto none."""
    package = device.cuda  # first of all, so that numba.cuda is numba-cuda's
    import numba.cuda.codegen as codegen
    import numba.cuda.dispatcher as dispatcher

    assert package is not None
    gpu = SimpleNamespace(compute_capability=capability, id=0)
    codegen.devices = SimpleNamespace(get_context=lambda: SimpleNamespace(device=gpu))
    dispatcher.get_current_device = lambda: gpu
    dispatcher._Kernel.bind = lambda kernel: kernel._codelibrary.get_cubin()
    bound.cuda, bound.device = SimpleNamespace(to_device=np.ascontiguousarray), SimpleNamespace(zeros=np.zeros)


def machine_code(kernel: Any, signature: tuple[Any, ...]) -> bytes:
    """A kernel's, compiled or loaded from the cache folder."""
    return bytes(kernel.compile(signature)._codelibrary.get_cubin().code)
