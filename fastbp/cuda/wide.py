"""Products of wide layers by NVIDIA's library, with what follows fused into them where it can, else in our kernels.

`Wide` gives the numbers of ``products.Tiles``, its plain twin, but for rounding: of float32, of TF32, or of factors in
bfloat16. A matrix that is nothing but a factor of the library's products is bfloat16 where it stands: the product that
makes it writes it so, with biases in bfloat16, or the kernel behind it does (`stored`); others are copied on the way.
What the loss and the updates read is float32. Narrow layers stay with the tiles.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp import program as pg
from fastbp.activations import GELU_TANH, IDENTITY, RELU, Activation
from fastbp.cuda import cublas, ops, products, rules
from fastbp.cuda import layout as lo
from fastbp.cuda.cublas import Addresses, Library, Shape, address_of, handle_of, mask_bytes
from fastbp.cuda.device import cuda, kernel
from fastbp.cuda.layout import Layout
from fastbp.cuda.precision import half
from fastbp.cuda.shapes import Shapes
from fastbp.cuda.step import Launch
from fastbp.layout.operations import DENSE
from fastbp.program import round_up

if TYPE_CHECKING:
    from fastbp.cuda.bound import Bound

LEAST_WIDTH, LEAST_WORK = 8, 1 << 22
"""Inputs and outputs of a layer, and multiplications of its product, from which on the library multiplies.

An estimate, not measured on a device: below, a product is over before the library's larger tiles fill the GPU. Few
outputs of a large layer are the library's too: it cuts their long sums into pieces that fill a GPU, the tiles don't."""
HALF_MULTIPLE = 8
"""Numbers of a row of bfloat16 copies are a multiple of it: 16 bytes, what tensor cores load at once."""


@dataclass(frozen=True)
class Product(Launch):
    """A product that the library launches; `kernel` is what it was bound to."""

    def __call__(self, stream: Any) -> None:
        """Put it into the stream."""
        self.kernel(handle_of(stream))


def product(launch: Any) -> Product:
    """What the library bound, as a launch."""
    return Product(launch, (1,), 1, ())


# -------------------------------------------------- kernels


@functools.cache
def halve(dtype: np.dtype, shapes: Shapes) -> Any:
    """Kernel: bfloat16 copies (rows, ld) of a matrix of float32, the nearest ones; NaN stays NaN.

    source (..., source_ld), from its number `first` on; padding is written as 0
    """
    lanes, groups = shapes.lanes, shapes.groups
    low, high, quiet = np.uint32(0x7FFF), np.uint32(0x7FFFFFFF), np.uint32(0x7F800000)

    def run(t, copy, ld, source, first, source_ld, rows, columns):
        if t[lo.STATUS] != pg.RUNNING:
            return
        b = cuda.blockIdx.x * groups + cuda.threadIdx.x // lanes
        if b < rows:
            for c in range(cuda.threadIdx.x % lanes, ld, lanes):
                bits = np.uint32(0)
                if c < columns:
                    bits = source[first + b * source_ld + c]
                    if bits & high <= quiet:  # not NaN; rounding carries into the exponent
                        bits = bits + low + (bits >> np.uint32(16) & np.uint32(1))
                    else:
                        bits = bits | np.uint32(0x400000)
                copy[b * ld + c] = np.uint16(bits >> np.uint32(16))

    return kernel(run, threads=shapes.threads)


@functools.cache
def widen(dtype: np.dtype, shapes: Shapes) -> Any:
    """Kernel: the float32 of a bfloat16 matrix (rows, ld), to where `halve` would take it from: who is to read it
    turned out to be no product of the library's."""
    lanes, groups = shapes.lanes, shapes.groups

    def run(t, copy, ld, target, first, target_ld, rows, columns):
        if t[lo.STATUS] != pg.RUNNING:
            return
        b = cuda.blockIdx.x * groups + cuda.threadIdx.x // lanes
        if b < rows:
            for c in range(cuda.threadIdx.x % lanes, columns, lanes):
                target[first + b * target_ld + c] = np.uint32(copy[b * ld + c]) << np.uint32(16)

    return kernel(run, threads=shapes.threads)


@functools.cache
def finish(dtype: np.dtype, shapes: Shapes, row: Activation, back: bool) -> Any:
    """Kernel: H of Z as ``ops.activate``, and its bfloat16 copy (rows, ld); or, going back, dZ as ``ops.derive``, to
    the copy alone."""
    lanes, groups, to_half = shapes.lanes, shapes.groups, half()
    rule = rules.derivative(row, dtype) if back else rules.activation(row, dtype)

    def run(t, op, columns, work, constants, copy, ld):
        if t[lo.STATUS] != pg.RUNNING:
            return
        b = cuda.blockIdx.x * groups + cuda.threadIdx.x // lanes
        if b >= t[lo.ROWS]:
            return
        p = constants[t[op + lo.NUMBERS] + lo.PARAMETER]
        z0, h0 = t[op + lo.Z] + b * t[op + lo.LDZ], t[op + lo.H] + b * t[op + lo.LDH]
        d0 = t[op + lo.DZ] + b * t[op + lo.LDDZ]
        for c in range(cuda.threadIdx.x % lanes + lanes * cuda.blockIdx.y, columns, lanes * cuda.gridDim.y):
            if back:
                value = rule(work[d0 + c], work[z0 + c], work[h0 + c], p)
            else:
                value = rule(work[z0 + c], p)
                work[h0 + c] = value
            copy[b * ld + c] = to_half(value)

    return kernel(run, threads=shapes.threads)


@functools.cache
def add_bias(dtype: np.dtype, shapes: Shapes) -> Any:
    """Kernel: the biases are added to Z."""

    def each(t, op, s, b, c, work, params):
        bias = params[t[op + lo.W] + t[op + lo.IN] * t[op + lo.LDW] + c]
        work[t[op + lo.Z] + b * t[op + lo.LDZ] + c] += bias

    return ops.by_rows(shapes, each)


@functools.cache
def sum_rows(dtype: np.dtype, shapes: Shapes) -> Any:
    """Kernel: the sums of dZ over the buffers' rows, in float64, to the gradient's row of biases."""
    kind: Any = dtype.type
    lanes, groups, double = shapes.lanes, shapes.groups, np.dtype(np.float64)

    def run(t, op, work, gradient):
        share = cuda.shared.array(0, double)
        if t[lo.STATUS] != pg.RUNNING:
            return
        lane, group = cuda.threadIdx.x % lanes, cuda.threadIdx.x // lanes
        o = cuda.blockIdx.x * lanes + lane
        value = 0.0
        if o < t[op + lo.OUT]:
            for b in range(group, t[lo.ROWS], groups):
                value += np.float64(work[t[op + lo.DZ] + b * t[op + lo.LDDZ] + o])
        share[cuda.threadIdx.x] = value
        cuda.syncthreads()
        if group == 0 and o < t[op + lo.OUT]:
            for g in range(1, groups):
                value += share[g * lanes + lane]
            gradient[t[op + lo.W] + t[op + lo.IN] * t[op + lo.LDW] + o] = kind(value)

    return kernel(run, threads=shapes.threads)


# -------------------------------------------------- the products of a step


def chooser(precision: str) -> Callable[["Bound"], products.Products]:
    """What makes a step's products: by the library where some layer is wide, else, and without one, by the tiles.

    precision : a key of ``cublas.PRECISIONS``
    """

    def make(bound: "Bound") -> products.Products:
        if any(is_wide(bound.layout, op) for op in range(len(bound.layout.layers))):
            library = cublas.library()
            if library is not None:
                return Wide(bound, library, precision)
        return products.Tiles(bound, precision)

    return make


def is_wide(layout: Layout, op: int, least: int = LEAST_WORK, width: int = LEAST_WIDTH) -> bool:
    """Whether an op is a product that the library is for."""
    layer = layout.layers[op]
    work = layout.batch * layer.fan_in * layer.fan_out
    return layer.operation is DENSE and work >= least and min(layer.fan_in, layer.fan_out) >= width


def stored(layout: Layout, op: int, least: int = LEAST_WORK, width: int = LEAST_WIDTH) -> bool:
    """Whether the outputs of an op are written as bfloat16 alone, where that is what factors are rounded to.

    They are nothing but factors of the library's products, and the product that makes them does all that makes them.
    """
    readers = [k for k, source in enumerate(layout.sources) if op in (source, layout.skips[k])]
    return (
        bool(readers)
        and layout.layers[op].activation in (IDENTITY, RELU)
        and all(is_wide(layout, k, least, width) for k in (op, *readers))
    )


class Wide(products.Tiles):
    """Products by the library where a layer is wide, and where it knows how.

    Parameters
    ----------
    bound : the step
    library : what multiplies
    precision : "float32", "tf32" or "bfloat16" ("float64" where that is the network's type)
    least : multiplications of a product from which on the library serves
    width : inputs and outputs from which on it does
    """

    def __init__(
        self, bound: "Bound", library: Library, precision: str, least: int = LEAST_WORK, width: int = LEAST_WIDTH
    ) -> None:
        super().__init__(bound, precision)
        self._library, self._least, self._width = library, least, width
        self._halves: dict[tuple[str, int], tuple[Any, int]] = {}
        self._halved: set[tuple[str, int]] = set()
        self._alone: set[int] = set()
        self._masks: dict[int, Any] = {}
        self._gradient: Any = None
        self._bits: dict[str, Any] = {}
        self._mirror: Any = None
        self._beginning: dict[int, Launch] = {}

    def _wide(self, op: int) -> bool:
        return is_wide(self._bound.layout, op, self._least, self._width)

    # -------------------------------------------------- operands

    def _field(self, op: int, *fields: int) -> list[int]:
        return [int(number) for number in self._bound.layout.rows[op, list(fields)]]

    def _at(self, array: Any, number: int) -> int:
        """The address of a number of an array."""
        return address_of(array) + number * int(array.dtype.itemsize)

    def _factor(
        self, found: list[Launch], buffer: str, place: int, ld: int, rows: int, columns: int
    ) -> tuple[int, int]:
        """Address and distance of a factor's rows: of the matrix itself, or of its bfloat16 copy, made in `found`.

        Each copy is made once a step, by whoever comes first.
        """
        source = self._bound.work if buffer == "work" else self._bound.params
        if self.precision != "bfloat16":
            return self._at(source, place), ld
        copy, half_ld = self._copy(buffer, place, rows, columns)
        if (buffer, place) not in self._halved:
            self._halved.add((buffer, place))
            found.append(self._halve(copy, half_ld, buffer, place, ld, rows, columns))
        return address_of(copy), half_ld

    def _copy(self, buffer: str, place: int, rows: int, columns: int) -> tuple[Any, int]:
        """Room for the bfloat16 copy of a matrix, and the distance of its rows."""
        if (buffer, place) not in self._halves:
            half_ld = round_up(columns, HALF_MULTIPLE)
            self._halves[buffer, place] = cuda.device_array(rows * half_ld, np.uint16), half_ld
        return self._halves[buffer, place]

    def _halve(
        self, copy: Any, half_ld: int, buffer: str, place: int, ld: int, rows: int, columns: int, back: bool = False
    ) -> Launch:
        """What makes a bfloat16 copy of a matrix, or, `back`, the matrix of its copy."""
        bound = self._bound
        source = bound.work if buffer == "work" else bound.params
        made, grid = (widen if back else halve)(bound.dtype, bound.shapes), (-(-rows // bound.shapes.groups),)
        bits = self._bits.setdefault(buffer, source.view(np.uint32))
        arguments = bound.table, copy, half_ld, bits, place, ld, rows, columns
        return Launch(made, grid, bound.shapes.threads, arguments)

    def _written(self, place: int, alone: bool = True) -> None:
        """The copy of a matrix of activations or gradients is made, and, `alone`, the matrix isn't."""
        self._halved.add(("work", place))
        if alone:
            self._alone.add(place)

    def _readable(self, op: int, *fields: tuple[int, int, int]) -> list[Launch]:
        """What makes matrices of which there is only the copy, for kernels that aren't the library's: each is (field of
        its place, of its distance, columns)."""
        found = []
        for *fields_of, columns in fields:
            place, ld = self._field(op, *fields_of)
            if place in self._alone:
                self._alone.remove(place)
                copy, half_ld = self._halves["work", place]
                batch = self._bound.layout.batch
                found.append(self._halve(copy, half_ld, "work", place, ld, batch, columns, back=True))
        return found

    def _weights(self, found: list[Launch], op: int) -> tuple[int, int]:
        """Address and distance of the weights; in bfloat16 the biases are the row behind them."""
        (w, ldw), layer = self._field(op, lo.W, lo.LDW), self._bound.layout.layers[op]
        rows = layer.fan_in + layer.bias
        if not self._mirrored(op):
            return self._factor(found, "params", w, ldw, rows, layer.fan_out)
        if self._mirror is None:
            numbers = self._bound.layout.program.parameter_bytes // self._bound.dtype.itemsize
            self._mirror = cuda.to_device(np.zeros(numbers, np.uint16))
        if op not in self._beginning:
            copy = self._mirror[w : w + rows * ldw]
            self._beginning[op] = self._halve(copy, ldw, "params", w, ldw, rows, layer.fan_out)
        return self._at(self._mirror, w), ldw

    def _mirrored(self, op: int) -> bool:
        """Whether the bfloat16 copy of an op's weights is made when a run begins, and by each update: not by a pass of
        its own in each step. Its numbers stand where the weights do, at the same distances."""
        layout, layer = self._bound.layout, self._bound.layout.layers[op]
        changes = self._bound.optimizer is not None and op in layout.learning
        kept_up = self._bound.fused and layer.constraint is None
        return (
            self.precision == "bfloat16"
            and self._field(op, lo.LDW)[0] % HALF_MULTIPLE == 0
            and (kept_up or not changes)
        )

    def first(self) -> list[Launch]:
        """See ``products.Products``."""
        return list(self._beginning.values())

    def _matrix(self, found: list[Launch], op: int, place: int, ld: int, columns: int) -> tuple[int, int]:
        first, distance = self._field(op, place, ld)
        return self._factor(found, "work", first, distance, self._bound.layout.batch, columns)

    def _bind(self, shape: Shape, at: Addresses, *epilogues: str) -> tuple[Any, str]:
        """The product with the first of the epilogues that the library knows, and which it is; (None, "") without."""
        for epilogue in epilogues:
            beside = at.beside if "bias" in epilogue or epilogue == "sums" else 0
            mask = at.mask if "mask" in epilogue or epilogue == "relu back" else 0
            launch = self._library.bind(replace(shape, epilogue=epilogue), at._replace(beside=beside, mask=mask))
            if launch is not None:
                return product(launch), epilogue
        return None, ""

    def _by_rows(self, kernel: Any, op: int, columns: int, numbers: Any) -> Launch:
        """A kernel of ``ops``, over the rows of the buffers."""
        bound = self._bound
        grid = bound.shapes.grid(bound.layout.batch, columns)
        arguments = bound.table, Layout.field(op), 0, columns, bound.work, numbers
        return Launch(kernel, grid, bound.shapes.threads, arguments)

    # -------------------------------------------------- products

    def forward(self, op: int) -> list[Launch]:
        """See ``products.Products``."""
        bound, layout = self._bound, self._bound.layout
        if op == self._first():
            self._halved.clear()
            self._alone.clear()
        if not self._wide(op):
            return super().forward(op)
        layer, found = layout.layers[op], list[Launch]()
        row = layer.activation if layout.fused[op] else IDENTITY
        z, ldz, h, w, ldw = self._field(op, lo.Z, lo.LDZ, lo.H, lo.W, lo.LDW)
        a, ld_a = self._matrix(found, op, lo.A, lo.LDA, layer.fan_in)
        b, ld_b = self._weights(found, op)
        shape = Shape(layout.batch, layer.fan_out, layer.fan_in, ldz, ld_a, ld_b, precision=self.precision)
        beside = self._at(bound.params, w + layer.fan_in * ldw) if layer.bias else 0
        wanted = self._epilogues(op, row, z == h)
        mask = 0
        if any("mask" in epilogue for epilogue in wanted):
            if op not in self._masks:
                self._masks[op] = cuda.device_array(mask_bytes(layout.batch, layer.fan_out), np.uint8)
            mask = address_of(self._masks[op])
        if self.precision == "bfloat16" and stored(layout, op, self._least, self._width):
            copy, half_ld = self._copy("work", h, layout.batch, layer.fan_out)
            half_bias = b + 2 * layer.fan_in * ld_b if layer.bias else 0
            rounding = replace(shape, ld=half_ld, half=True)
            launch, _ = self._bind(rounding, Addresses(address_of(copy), a, b, half_bias, mask), wanted[0])
            if launch is not None:
                self._written(h)
                return [*found, launch]
        launch, got = self._bind(shape, Addresses(self._at(bound.work, z), a, b, beside, mask), *wanted)
        if "mask" not in got:
            self._masks.pop(op, None)
        if launch is None:
            return found + self._readable(op, (lo.A, lo.LDA, layer.fan_in)) + super().forward(op)
        found.append(launch)
        if layer.bias and "bias" not in got:
            found.append(self._by_rows(add_bias(bound.dtype, bound.shapes), op, layer.fan_out, bound.params))
        if row is not IDENTITY and row.name not in got:
            if self.precision == "bfloat16" and any(self._wide(reader) for reader in layout.users[op]):
                found.append(self._finish(op, row, h, back=False))
            else:
                made = ops.activate(bound.dtype, bound.shapes, row)
                found.append(self._by_rows(made, op, layer.fan_out, bound.constants))
        return found

    def _finish(self, op: int, row: Activation, place: int, back: bool) -> Launch:
        """The activation of an op, or, `back`, its derivative, with the bfloat16 copy of what it makes."""
        bound, columns = self._bound, self._bound.layout.layers[op].fan_out
        copy, half_ld = self._copy("work", place, bound.layout.batch, columns)
        self._written(place, alone=back)
        made, grid = finish(bound.dtype, bound.shapes, row, back), bound.shapes.grid(bound.layout.batch, columns)
        arguments = bound.table, Layout.field(op), columns, bound.work, bound.constants, copy, half_ld
        return Launch(made, grid, bound.shapes.threads, arguments)

    def _first(self) -> int:
        """The step's first product."""
        return next(op for op, layer in enumerate(self._bound.layout.layers) if layer.operation is DENSE)

    def _epilogues(self, op: int, row: Activation, in_place: bool) -> list[str]:
        """What may be fused into a layer's product, best first, all of it; an activation only where Z isn't kept."""
        bias = ["bias"] if self._bound.layout.layers[op].bias else []
        wanted = [bias]
        if in_place and row in (RELU, GELU_TANH):
            wanted.insert(0, [row.name, *bias])
            if row is RELU and self._goes_back_to(op):
                wanted.insert(0, [row.name, *bias, "mask"])
        return [*(", ".join(parts) for parts in wanted if parts), ""]

    def _goes_back_to(self, op: int) -> bool:
        """Whether a wide product's dA is the dZ of `op`."""
        befores, layers = self._bound.layout.befores, self._bound.layout.layers
        return self._bound.layout.backward and any(
            before == op and layers[after].operation is DENSE and self._wide(after)
            for after, before in enumerate(befores)
        )

    def input_gradient(self, op: int) -> list[Launch]:
        """See ``products.Products``."""
        if not self._wide(op):
            return super().input_gradient(op)
        bound, layout = self._bound, self._bound.layout
        layer, before, found = layout.layers[op], layout.befores[op], list[Launch]()
        row = layout.layers[before].activation if before >= 0 else IDENTITY
        da, ldda = self._field(op, lo.DA, lo.LDDA)
        a, ld_a = self._matrix(found, op, lo.DZ, lo.LDDZ, layer.fan_out)
        b, ld_b = self._weights(found, op)
        sizes = layout.batch, layer.fan_in, layer.fan_out
        shape = Shape(*sizes, ldda, ld_a, ld_b, flip_b=True, precision=self.precision)
        masked = before in self._masks
        mask = address_of(self._masks[before]) if masked else 0
        wanted = ["relu back", ""] if masked else [""]
        halved = self.precision == "bfloat16" and before >= 0 and self._wide(before)
        if halved and (masked or row is IDENTITY):
            copy, half_ld = self._copy("work", da, layout.batch, layer.fan_in)
            rounding = replace(shape, ld=half_ld, half=True)
            launch, _ = self._bind(rounding, Addresses(address_of(copy), a, b, 0, mask), wanted[0])
            if launch is not None:
                self._written(da)
                return [*found, launch]
        launch, got = self._bind(shape, Addresses(self._at(bound.work, da), a, b, 0, mask), *wanted)
        if row is not IDENTITY and got != "relu back":
            found += self._readable(before, (lo.H, lo.LDH, layer.fan_in))
        if launch is None:
            return found + self._readable(op, (lo.DZ, lo.LDDZ, layer.fan_out)) + super().input_gradient(op)
        found.append(launch)
        if row is not IDENTITY and got != "relu back":
            if halved:
                found.append(self._finish(before, row, da, back=True))
            else:
                made = ops.derive(bound.dtype, bound.shapes, row)
                found.append(self._by_rows(made, before, layer.fan_in, bound.constants))
        return found

    def weight_gradients(self, ops: list[int], fused: bool) -> list[Launch]:
        """See ``products.Products``."""
        bound, wide, found = self._bound, list[int](), list[Launch]()
        for op in ops:
            if self._wide(op):
                launches = self._weight_gradient(op)
                found += launches or self._factors_of(op)
                wide += [op] if launches else []
        found += super().weight_gradients([op for op in ops if op not in wide], fused)
        element, mirrored = bound.element if fused else products.write, [op for op in wide if op in self._beginning]
        for some in (mirrored, [op for op in wide if op not in mirrored]):
            if some:
                copies = bound.params if some is not mirrored else self._mirror
                tasks, made = bound.tasks(some), products.learn(bound.dtype, bound.shapes, element, some is mirrored)
                arguments = bound.table, bound.upload(tasks.ravel()), self._gradient, 1, 0, bound.params
                arguments = *arguments, bound.constants, bound.coefficients, copies
                found.append(Launch(made, (len(tasks),), bound.shapes.flat, arguments))
        if fused:
            found += [self._beginning[op] for op in ops if op in self._beginning and op not in wide]
        return found

    def _factors_of(self, op: int) -> list[Launch]:
        """What makes the factors of a weight gradient for the tiles."""
        layer = self._bound.layout.layers[op]
        return self._readable(op, (lo.A, lo.LDA, layer.fan_in), (lo.DZ, lo.LDDZ, layer.fan_out))

    def _weight_gradient(self, op: int) -> list[Launch]:
        """A' dZ, and the sums of dZ, in the places of the op's weights among the library's gradients; [] without it."""
        if self._gradient is None:
            numbers = self._bound.layout.program.parameter_bytes // self._bound.dtype.itemsize
            self._gradient = self._bound.zeros(numbers)
        bound, layout = self._bound, self._bound.layout
        layer, found, halved = layout.layers[op], list[Launch](), set(self._halved)
        w, ldw = self._field(op, lo.W, lo.LDW)
        a, ld_a = self._matrix(found, op, lo.A, lo.LDA, layer.fan_in)
        b, ld_b = self._matrix(found, op, lo.DZ, lo.LDDZ, layer.fan_out)
        shape = Shape(layer.fan_in, layer.fan_out, layout.batch, ldw, ld_a, ld_b, True, precision=self.precision)
        beside = self._at(self._gradient, w + layer.fan_in * ldw) if layer.bias else 0
        wanted = ["sums", ""] if layer.bias else [""]
        launch, got = self._bind(shape, Addresses(self._at(self._gradient, w), a, b, beside), *wanted)
        if launch is None:
            self._halved = halved
            return []
        found.append(launch)
        if layer.bias and not got:
            found += self._readable(op, (lo.DZ, lo.LDDZ, layer.fan_out))
            made, sizes = sum_rows(bound.dtype, bound.shapes), bound.shapes
            arguments = bound.table, Layout.field(op), bound.work, self._gradient
            grid = (-(-layer.fan_out // sizes.lanes),)
            found.append(Launch(made, grid, sizes.threads, arguments, 8 * sizes.threads))
        return found
