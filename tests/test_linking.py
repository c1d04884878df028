"""How helpers become part of kernels: linked once, optimised there, never made machine code of by themselves."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from llvmlite import ir
from numba.core import types

from fastbp._jit import Kernel, helper, intrinsic


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


def adds(number: int) -> Callable[..., Any]:
    @intrinsic
    def add(typingctx, x):
        def generate(context, builder, signature, values):
            whole = ir.IntType(64)
            inner = ir.Function(builder.module, ir.FunctionType(whole, [whole]), "inner")
            inner.linkage = "internal"
            inner.attributes.add("noinline")
            inside = ir.IRBuilder(inner.append_basic_block())
            inside.ret(inside.add(inner.args[0], whole(number)))
            return builder.call(inner, values)

        return types.int64(x), generate

    return add


def test_functions_of_one_name_that_are_internal_to_helpers_stay_apart() -> None:
    add_one, add_ten = adds(1), adds(10)

    @helper
    def one(x):
        return add_one(x)

    @helper
    def ten(x):
        return add_ten(x)

    def both_of_them(x):
        return ten(one(x) * 100)

    def the_second(x):
        return ten(x)

    for function, wanted in ((both_of_them, 310), (the_second, 12)):
        made = Kernel(function, types.int64(types.int64))
        made.dispatcher.compile(made.signature)
        assert made.dispatcher(2) == wanted
