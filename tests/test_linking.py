"""How helpers become part of kernels: linked once, optimised there, never made machine code of by themselves."""

import numpy as np
import pytest
from numba.core import types

from fastbp._jit import Kernel, helper


@helper
def square(x):
    return x * x


@helper
def fourth(x):
    return square(square(x))


@helper
def both(x, y):
    return max(square(x), fourth(y))  # Numba's own `max` is a library that helpers share


@pytest.mark.parametrize("given", [(3, 1), (1, 3), (-2, 0)])
def test_a_kernel_has_all_that_its_helpers_call(given: tuple[int, int]) -> None:
    def kernel(x, y):
        return both(x, y) + fourth(y)

    x, y = given
    made = Kernel(kernel, types.int64(types.int64, types.int64))
    made.dispatcher.compile(made.signature)
    assert made.dispatcher(x, y) == max(x**2, y**4) + y**4


def test_a_helper_is_no_machine_code_of_its_own() -> None:
    def kernel(x):
        return fourth(x)

    made = Kernel(kernel, types.float32(types.float32))
    made.dispatcher.compile(made.signature)
    for function in (fourth, square):
        result = function.overloads[types.float32,]
        names = [each.name for each in result.library.get_defined_functions()]
        assert names == [result.fndesc.mangled_name], "only the function itself, no wrapper, no copy of what it calls"
        assert not result.library.codegen._engine.is_symbol_defined(result.fndesc.mangled_name)
    assert made.dispatcher(np.float32(3)) == 81


def test_python_calls_a_helper_by_a_copy_made_for_it() -> None:
    assert fourth(2) == 16
    assert fourth(0.5) == 0.0625
    assert both(np.float32(3), 1) == 9
