"""Floor 0: vectors as Numba values, so that formulas are written once, as arithmetic, and never left to a vectoriser.

`Vec` is a register of numbers: ``a * b + 1``, ``a > 0``, ``-a``, ``abs(a)`` and the functions below work on it, lane by
lane and without fast-math flags (a formula means what it says). `Column` is a strided run of vectors in memory:
``z[i]`` loads, ``z[i] = v`` stores. Outside jitted code the same functions take NumPy arrays.
"""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.core.imputils import lower_builtin, lower_cast
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import register_model

from fastbp._jit import has_fma, intrinsic, vector_bytes

I32, I64 = ir.IntType(32), ir.IntType(64)


def lanes_of(itemsize: int) -> int:
    """Numbers in a vector register of the target machine."""
    return vector_bytes() // itemsize


def llvm_type(dtype: types.Type) -> ir.Type:
    """The IR type of a number or truth value."""
    if isinstance(dtype, types.Boolean):
        return ir.IntType(1)
    return ir.FloatType() if dtype == types.float32 else ir.DoubleType()


class Vec(types.Type):
    """As many numbers (or truth values) of one type as a register holds."""

    def __init__(self, dtype: types.Type, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"Vec({dtype}, {lanes})")

    @property
    def mask(self) -> "Vec":
        return Vec(types.boolean, self.lanes)


class Column(types.Type):
    """Vectors of one type at a fixed distance in bytes from each other."""

    def __init__(self, dtype: types.Type, stride: int) -> None:
        self.dtype, self.stride = dtype, stride
        self.vec = vec_of(dtype)
        super().__init__(name=f"Column({dtype}, {stride})")


def vec_of(dtype: Any) -> Vec:
    """The vector type that fills a register with numbers of a type."""
    return Vec(dtype, lanes_of(dtype.bitwidth // 8))


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vec) -> None:
        super().__init__(dmm, fe_type, ir.VectorType(llvm_type(fe_type.dtype), fe_type.lanes))


@register_model(Column)
class _ColumnModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Column) -> None:
        super().__init__(dmm, fe_type, I64)


# ---------------------------------------------------------------- numbers become vectors


def splat(builder: ir.IRBuilder, scalar: ir.Value, lanes: int) -> ir.Value:
    """A vector with the scalar in every lane."""
    kind = ir.VectorType(scalar.type, lanes)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(
        first, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
    )


@lower_cast(types.Integer, Vec)
@lower_cast(types.IntegerLiteral, Vec)
@lower_cast(types.Float, Vec)
def _number_to_vec(context: Any, builder: ir.IRBuilder, fromty: Any, toty: Vec, val: ir.Value) -> ir.Value:
    return splat(builder, context.cast(builder, val, types.unliteral(fromty), toty.dtype), toty.lanes)


# ---------------------------------------------------------------- registering an operation


def _operation(function: Any, count: int, result: Callable[[Vec], types.Type], emit: Callable[..., ir.Value]) -> None:
    """`function` on `count` vectors (numbers are spread) of one type; `emit(builder, vec, *values)` writes the IR."""

    class Template(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            vectors = [a for a in args if isinstance(a, Vec)]
            if len(args) != count or not vectors or kws:
                return None
            vec = vectors[-1]
            arguments = [a if isinstance(a, Vec) and a.dtype == types.boolean else vec for a in args]
            return signature(result(vec), *arguments)

    infer_global(function)(Template)

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        vec = next(a for a in reversed(sig.args) if isinstance(a, Vec))
        return emit(builder, vec, *args)

    lower_builtin(function, *([Vec] * count))(lower)


def external(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[ir.Type]) -> ir.Function:
    """Declaration of an LLVM intrinsic in the module under construction."""
    kind = ir.FunctionType(result, arguments)
    found: ir.Function = cgutils.get_or_insert_function(builder.module, kind, name)
    return found


def suffix(kind: ir.VectorType) -> str:
    """How LLVM's intrinsics name a vector type, for example v16f32."""
    return f"v{kind.count}f{32 if isinstance(kind.element, ir.FloatType) else 64}"


def unary(name: str) -> Callable[..., ir.Value]:
    """IR writer for a one-argument LLVM intrinsic."""

    def emit(builder: ir.IRBuilder, vec: Vec, a: ir.Value) -> ir.Value:
        return builder.call(external(builder, f"llvm.{name}.{suffix(a.type)}", a.type, [a.type]), [a])

    return emit


def fused(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """a * b + c: one instruction where the machine has it, else two (a library call per lane would be far slower)."""
    if has_fma():
        return builder.call(external(builder, f"llvm.fma.{suffix(a.type)}", a.type, [a.type] * 3), [a, b, c])
    return builder.fadd(builder.fmul(a, b), c)


def _compare(symbol: str) -> Callable[..., ir.Value]:
    return lambda builder, vec, a, b: builder.fcmp_ordered(symbol, a, b)


def _same(vec: Vec) -> Vec:
    return vec


def _mask(vec: Vec) -> Vec:
    return vec.mask


# ---------------------------------------------------------------- functions of the formulas


def where(mask: Any, a: Any, b: Any) -> Any:
    """`a` where `mask` holds, else `b`."""
    return np.where(mask, a, b)


def maximum(a: Any, b: Any) -> Any:
    """The larger; `a` where `b` is NaN compares false, so a NaN in `a` stays."""
    return np.maximum(a, b)


def minimum(a: Any, b: Any) -> Any:
    """The smaller; a NaN in `a` stays."""
    return np.minimum(a, b)


def fma(a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once where the machine can."""
    return a * b + c


def sqrt(a: Any) -> Any:
    """Square root."""
    return np.sqrt(a)


def root(a: Any) -> Any:
    """Square root of a number of at least 0, to a unit or two in the last place where that is quicker (AVX-512).

    There a number below the least normal one counts as 0, infinity as the largest number.
    """
    return np.sqrt(a)


def quotient(a: Any, b: Any) -> Any:
    """a / b for a normal b, to a unit or two in the last place where that is quicker (AVX-512)."""
    return a / b


def copysign(a: Any, b: Any) -> Any:
    """|a| with the sign of b."""
    return np.copysign(a, b)


for _function, _method in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _operation(_function, 2, _same, lambda builder, vec, a, b, m=_method: getattr(builder, m)(a, b))
for _function, _symbol in (
    (operator.lt, "<"),
    (operator.le, "<="),
    (operator.gt, ">"),
    (operator.ge, ">="),
    (operator.eq, "=="),
):
    _operation(_function, 2, _mask, _compare(_symbol))
_operation(operator.neg, 1, _same, lambda builder, vec, a: builder.fneg(a))
_operation(abs, 1, _same, unary("fabs"))
_operation(sqrt, 1, _same, unary("sqrt"))
_operation(fma, 3, _same, lambda builder, vec, a, b, c: fused(builder, a, b, c))
_operation(where, 3, _same, lambda builder, vec, m, a, b: builder.select(m, a, b))
_operation(maximum, 2, _same, lambda builder, vec, a, b: builder.select(builder.fcmp_ordered("<", a, b), b, a))
_operation(minimum, 2, _same, lambda builder, vec, a, b: builder.select(builder.fcmp_ordered(">", a, b), b, a))


def _emit_copysign(builder: ir.IRBuilder, vec: Vec, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.call(external(builder, f"llvm.copysign.{suffix(a.type)}", a.type, [a.type] * 2), [a, b])


_operation(copysign, 2, _same, _emit_copysign)


# AVX-512 divides and takes roots of 16 float32 in 16 and 18 cycles, of 8 float64 in 16 and 24, one at a time
# (uops.info: VDIVPS, VSQRTPS and so on of 512 bits). An estimate to 14 bits and a step of Newton's method, for float64
# with more terms of its series, take a few operations that overlap with others.


def _estimate(builder: ir.IRBuilder, name: str, a: ir.Value, mask: ir.Value) -> ir.Value:
    """The reciprocal ("rcp14"), or that of the root ("rsqrt14"), to 14 bits; 0 where the mask doesn't hold."""
    kinds = [a.type, a.type, mask.type]
    number = "ps" if a.type.count == 16 else "pd"
    emitted = external(builder, f"llvm.x86.avx512.{name}.{number}.512", a.type, kinds)
    return builder.call(emitted, [a, ir.Constant(a.type, [0.0] * a.type.count), mask])


def _estimates(vec: Vec) -> bool:
    """Whether there are estimates for vectors of this size."""
    return vec.lanes * vec.dtype.bitwidth == 512


def _series(builder: ir.IRBuilder, coefficients: tuple[float, ...], x: ir.Value) -> ir.Value:
    value: ir.Value = _constant(x.type, coefficients[0])
    for c in coefficients[1:]:
        value = fused(builder, value, x, _constant(x.type, c))
    return value


def _emit_root(builder: ir.IRBuilder, vec: Vec, a: ir.Value) -> ir.Value:
    if not _estimates(vec):
        emitted: ir.Value = unary("sqrt")(builder, vec, a)
        return emitted
    single = vec.dtype == types.float32
    limits = np.finfo(np.float32 if single else np.float64)
    largest, least = _constant(a.type, float(limits.max)), _constant(a.type, float(limits.tiny))
    a = builder.select(builder.fcmp_ordered(">", a, largest), largest, a)
    normal = builder.bitcast(builder.fcmp_unordered(">=", a, least), ir.IntType(vec.lanes))
    inverse = _estimate(builder, "rsqrt14", a, normal)
    found = builder.fmul(a, inverse)
    if single:
        half = builder.fmul(inverse, _constant(a.type, 0.5))
        error = fused(builder, builder.fneg(found), half, _constant(a.type, 0.5))
    else:
        rest = fused(builder, builder.fneg(found), inverse, _constant(a.type, 1.0))
        error = builder.fmul(rest, _series(builder, (5 / 16, 3 / 8, 1 / 2), rest))  # of 1 / sqrt(1 - rest), less 1
    return fused(builder, found, error, found)


def _emit_quotient(builder: ir.IRBuilder, vec: Vec, a: ir.Value, b: ir.Value) -> ir.Value:
    if not _estimates(vec):
        return builder.fdiv(a, b)
    inverse = _estimate(builder, "rcp14", b, ir.Constant(ir.IntType(vec.lanes), -1))
    if vec.dtype == types.float64:
        one = _constant(a.type, 1.0)
        rest = fused(builder, builder.fneg(inverse), b, one)
        inverse = fused(builder, inverse, fused(builder, rest, rest, rest), inverse)
    found = builder.fmul(a, inverse)
    error = fused(builder, builder.fneg(found), b, a)
    return fused(builder, error, inverse, found)


_operation(root, 1, _same, _emit_root)
_operation(quotient, 2, _same, _emit_quotient)


# ---------------------------------------------------------------- bits of a float: what exp and log are made of


def _bits(vec: Vec) -> tuple[ir.VectorType, int]:
    """(integer vector type, fraction bits)."""
    wide = vec.dtype == types.float64
    return ir.VectorType(I64 if wide else I32, vec.lanes), 52 if wide else 23


def _constant(kind: ir.VectorType, value: Any) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


def rounding(dtype: types.Type) -> float:
    """A number whose sum with another rounds it to an integer, whose power of two then is in the sum's low bits."""
    return 1.5 * 2.0**52 + 1023.0 if dtype == types.float64 else 1.5 * 2.0**23 + 127.0


def power_of_two(shifted: Any) -> Any:
    """2**n, where ``shifted`` is n + `rounding`."""
    word, fraction = (np.int64, 52) if shifted.dtype == np.float64 else (np.int32, 23)
    return (shifted.view(word) << fraction).view(shifted.dtype)


def exponent(x: Any) -> Any:
    """e of x = m * 2**e with sqrt(1/2) <= m < sqrt(2), for a positive normal x."""
    return np.round(np.log2(x))


def mantissa(x: Any) -> Any:
    """m of x = m * 2**e with sqrt(1/2) <= m < sqrt(2), for a positive normal x."""
    return x / 2.0 ** exponent(x)


def _emit_power_of_two(builder: ir.IRBuilder, vec: Vec, t: ir.Value) -> ir.Value:
    kind, fraction = _bits(vec)
    return builder.bitcast(builder.shl(builder.bitcast(t, kind), _constant(kind, fraction)), t.type)


def _split(builder: ir.IRBuilder, vec: Vec, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """(exponent, mantissa bits) as integer vectors, split at sqrt(1/2)."""
    kind, fraction = _bits(vec)
    root_half = int(
        np.float64(np.sqrt(0.5)).view(np.int64) if fraction == 52 else np.float32(np.sqrt(0.5)).view(np.int32)
    )
    bits = builder.bitcast(x, kind)
    shifted = builder.sub(bits, _constant(kind, root_half))
    e = builder.ashr(shifted, _constant(kind, fraction))
    return e, builder.sub(bits, builder.shl(e, _constant(kind, fraction)))


def _emit_exponent(builder: ir.IRBuilder, vec: Vec, x: ir.Value) -> ir.Value:
    return builder.sitofp(_split(builder, vec, x)[0], x.type)


def _emit_mantissa(builder: ir.IRBuilder, vec: Vec, x: ir.Value) -> ir.Value:
    return builder.bitcast(_split(builder, vec, x)[1], x.type)


_operation(power_of_two, 1, _same, _emit_power_of_two)
_operation(exponent, 1, _same, _emit_exponent)
_operation(mantissa, 1, _same, _emit_mantissa)


# ---------------------------------------------------------------- memory


def pointer(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type, offset: int = 0) -> ir.Value:
    """int64 address (+ constant bytes) -> pointer to `kind`."""
    raw = builder.inttoptr(address, ir.IntType(8).as_pointer())
    if offset:
        raw = builder.gep(raw, [ir.Constant(I64, offset)], source_etype=ir.IntType(8))
    return builder.bitcast(raw, kind.as_pointer())


def load(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type, offset: int = 0, align: int = 4) -> ir.Value:
    """Write the load of a value of `kind` from an int64 address (+ constant bytes)."""
    value = builder.load(pointer(builder, address, kind, offset), typ=kind)
    value.align = align
    return value


def store(builder: ir.IRBuilder, value: ir.Value, address: ir.Value, offset: int = 0, align: int = 4) -> None:
    """Write the store of a value to an int64 address (+ constant bytes)."""
    builder.store(value, pointer(builder, address, value.type, offset)).align = align


@infer_global(operator.getitem)
class _ColumnGet(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        if isinstance(args[0], Column) and isinstance(args[1], types.Integer):
            return signature(args[0].vec, args[0], types.int64)
        return None


@infer_global(operator.setitem)
class _ColumnSet(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        if isinstance(args[0], Column) and isinstance(args[1], types.Integer):
            return signature(types.none, args[0], types.int64, args[0].vec)
        return None


def _element(builder: ir.IRBuilder, column: Column, base: ir.Value, index: ir.Value) -> ir.Value:
    return builder.add(base, builder.mul(index, ir.Constant(I64, column.stride)))


@lower_builtin(operator.getitem, Column, types.int64)
def _lower_get(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
    column = sig.args[0]
    return load(builder, _element(builder, column, *args), context.get_value_type(column.vec), align=vector_bytes())


@lower_builtin(operator.setitem, Column, types.int64, Vec)
def _lower_set(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
    store(builder, args[2], _element(builder, sig.args[0], args[0], args[1]), align=vector_bytes())
    return context.get_dummy_value()


def _constant_of(argument: Any) -> int:
    """The value of an integer argument that must be known while compiling."""
    if not isinstance(argument, types.IntegerLiteral):
        from numba.core.errors import RequireLiteralValue

        raise RequireLiteralValue(argument)
    return int(argument.literal_value)


@intrinsic
def column(typingctx: Any, kind: Any, address: Any, step: Any) -> Any:
    """``column(np.float32, address, step)``: vectors `step` registers apart, beginning at an aligned address."""
    result = Column(kind.instance_type, _constant_of(step) * vector_bytes())
    return result(kind, types.int64, step), lambda context, builder, sig, args: args[1]


@intrinsic
def load_vectors(typingctx: Any, kind: Any, address: Any, distance: Any, count: Any) -> Any:
    """``load_vectors(np.float32, address, distance, 3)``: a tuple of vectors, `distance` bytes apart."""
    vec = vec_of(kind.instance_type)
    result = types.UniTuple(vec, _constant_of(count))

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        values, place = [], args[1]
        for _ in range(len(result)):
            values.append(load(builder, place, context.get_value_type(vec), align=vector_bytes()))
            place = builder.add(place, args[2])
        return context.make_tuple(builder, sig.return_type, values)

    return result(kind, types.int64, types.int64, count), emit


@intrinsic
def store_vectors(typingctx: Any, address: Any, distance: Any, values: Any) -> Any:
    """``store_vectors(address, distance, values)``: write a tuple of vectors, `distance` bytes apart."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        place = args[0]
        for value in cgutils.unpack_tuple(builder, args[2], len(values)):
            store(builder, value, place, align=vector_bytes())
            place = builder.add(place, args[1])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, values), emit


@intrinsic
def spread_numbers(typingctx: Any, kind: Any, address: Any, count: Any) -> Any:
    """``spread_numbers(np.float32, address, 8)``: a tuple of the numbers that follow each other there, each spread."""
    dtype = kind.instance_type
    vec, size = vec_of(dtype), dtype.bitwidth // 8
    result = types.UniTuple(vec, _constant_of(count))

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        numbers = [load(builder, args[1], llvm_type(dtype), i * size, align=size) for i in range(len(result))]
        return context.make_tuple(builder, sig.return_type, [splat(builder, n, vec.lanes) for n in numbers])

    return result(kind, types.int64, count), emit


@intrinsic
def spread(typingctx: Any, kind: Any, number: Any) -> Any:
    """``spread(np.float32, x)``: the number in every lane."""
    vec = vec_of(kind.instance_type)
    return vec(kind, vec.dtype), lambda context, builder, sig, args: splat(builder, args[1], vec.lanes)


@intrinsic
def lanes(typingctx: Any, kind: Any) -> Any:
    """``lanes(np.float32)``: numbers in a register, a constant to the compiler."""
    count = lanes_of(kind.instance_type.bitwidth // 8)
    return types.int64(kind), lambda context, builder, sig, args: ir.Constant(I64, count)


@intrinsic
def first_lanes(typingctx: Any, kind: Any, count: Any) -> Any:
    """``first_lanes(np.float32, 3)``: true in the first `count` lanes, all or none of them beyond the ends."""
    vec = vec_of(kind.instance_type)

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        numbers = ir.Constant(ir.VectorType(I32, vec.lanes), list(range(vec.lanes)))
        return builder.icmp_signed("<", numbers, splat(builder, builder.trunc(args[1], I32), vec.lanes))

    return vec.mask(kind, types.int64), emit


@intrinsic
def total(typingctx: Any, vec: Any) -> Any:
    """Sum of the lanes as float64, always in the order of a balanced tree."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        value = args[0]
        if vec.dtype == types.float32:
            value = builder.fpext(value, ir.VectorType(ir.DoubleType(), vec.lanes))
        count = vec.lanes
        while count > 1:
            count //= 2
            mask = ir.VectorType(I32, count)
            low = builder.shuffle_vector(value, value, ir.Constant(mask, list(range(count))))
            high = builder.shuffle_vector(value, value, ir.Constant(mask, list(range(count, 2 * count))))
            value = builder.fadd(low, high)
        return builder.extract_element(value, ir.Constant(I32, 0))

    return types.float64(vec), emit


@intrinsic
def load_int(typingctx: Any, address: Any) -> Any:
    """The int64 at an address."""
    return types.int64(types.int64), lambda context, builder, sig, args: load(builder, args[0], I64, align=8)


@intrinsic
def store_int(typingctx: Any, address: Any, value: Any) -> Any:
    """Write an int64 at an address."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        store(builder, args[1], args[0], align=8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), emit


@intrinsic
def load_number(typingctx: Any, kind: Any, address: Any) -> Any:
    """``load_number(np.float32, address)``: the number at an address."""
    dtype = kind.instance_type

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return load(builder, args[1], llvm_type(dtype), align=dtype.bitwidth // 8)

    return dtype(kind, types.int64), emit


@intrinsic
def store_number(typingctx: Any, kind: Any, address: Any, value: Any) -> Any:
    """``store_number(np.float32, address, x)``: write a number at an address."""
    dtype = kind.instance_type

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        store(builder, args[2], args[1], align=dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(kind, types.int64, dtype), emit


# ---------------------------------------------------------------- calls by address, and threads


@intrinsic
def call_rule(typingctx: Any, address: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> Any:
    """Call the rule at `address`: six int64 arguments, a float64 result."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        kind = ir.FunctionType(ir.DoubleType(), [I64] * 6)
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])

    return types.float64(*[types.int64] * 7), emit


@intrinsic
def call_worker(typingctx: Any, address: Any, a: Any, b: Any) -> Any:
    """Call the worker at `address`: two int64 arguments, an int64 result."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        kind = ir.FunctionType(I64, [I64] * 2)
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])

    return types.int64(*[types.int64] * 3), emit


@intrinsic
def call_yield(typingctx: Any, address: Any) -> Any:
    """Call the system's yield function at `address`."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        builder.call(builder.inttoptr(args[0], ir.FunctionType(I32, []).as_pointer()), [])
        return context.get_dummy_value()

    return types.void(types.int64), emit


@intrinsic
def fetch_add(typingctx: Any, address: Any, amount: Any) -> Any:
    """Atomically add to the int64 at an address; returns what was there."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.atomic_rmw("add", pointer(builder, args[0], I64), args[1], "acq_rel")

    return types.int64(types.int64, types.int64), emit


@intrinsic
def load_acquire(typingctx: Any, address: Any) -> Any:
    """Atomically read the int64 at an address; later reads see what its writer wrote before it."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.load_atomic(pointer(builder, args[0], I64), "acquire", 8, typ=I64)

    return types.int64(types.int64), emit


@intrinsic
def pause(typingctx: Any) -> Any:
    """Tell the core that this thread spins (x86 ``pause``, arm64 ``yield``; nothing elsewhere)."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        triple = builder.module.triple
        if triple.startswith(("x86_64", "i686", "amd64")):
            builder.call(external(builder, "llvm.x86.sse2.pause", ir.VoidType(), []), [])
        elif triple.startswith(("aarch64", "arm64")):
            builder.call(external(builder, "llvm.aarch64.hint", ir.VoidType(), [I32]), [ir.Constant(I32, 1)])
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def ticks(typingctx: Any) -> Any:
    """The core's counter of constant rate (x86 ``rdtsc``, arm64 ``cntvct_el0``; 0 elsewhere), for differences."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        triple = builder.module.triple
        if triple.startswith(("x86_64", "i686", "amd64")):
            return builder.call(external(builder, "llvm.readcyclecounter", I64, []), [])
        if triple.startswith(("aarch64", "arm64")):
            # not readcyclecounter, which reads a register of the system's; LLVM 20 makes readsteadycounter a 0
            register = builder.module.add_metadata(["cntvct_el0"])
            read = external(builder, "llvm.read_volatile_register.i64", I64, [ir.MetaDataType()])
            return builder.call(read, [register])
        return ir.Constant(I64, 0)

    return types.int64(), emit


@intrinsic
def flush_denormals(typingctx: Any) -> Any:
    """From here on this thread takes numbers below the least normal one for 0: they cost 100 times as much to compute
    with, and moments that decay end there. Returns what `restore_denormals` needs."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        triple = builder.module.triple
        if triple.startswith(("x86_64", "amd64")):
            place = cgutils.alloca_once(builder, I32)
            argument = builder.bitcast(place, ir.IntType(8).as_pointer())
            kind = [ir.IntType(8).as_pointer()]
            builder.call(external(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), kind), [argument])
            before = builder.load(place)
            builder.store(builder.or_(before, ir.Constant(I32, 0x8040)), place)
            builder.call(external(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), kind), [argument])
            return builder.zext(before, I64)
        if triple.startswith(("aarch64", "arm64")):
            before = builder.call(external(builder, "llvm.aarch64.get.fpcr", I64, []), [])
            after = builder.or_(before, ir.Constant(I64, 1 << 24))
            builder.call(external(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), [I64]), [after])
            return before
        return ir.Constant(I64, 0)

    return types.int64(), emit


@intrinsic
def restore_denormals(typingctx: Any, mode: Any) -> Any:
    """Undo `flush_denormals`: the caller's own code keeps its arithmetic."""

    def emit(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        triple = builder.module.triple
        if triple.startswith(("x86_64", "amd64")):
            place = cgutils.alloca_once(builder, I32)
            builder.store(builder.trunc(args[0], I32), place)
            argument = builder.bitcast(place, ir.IntType(8).as_pointer())
            kind = [ir.IntType(8).as_pointer()]
            builder.call(external(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), kind), [argument])
        elif triple.startswith(("aarch64", "arm64")):
            builder.call(external(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), [I64]), args)
        return context.get_dummy_value()

    return types.void(types.int64), emit
