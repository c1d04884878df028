"""Kernels that run on the host: what numba-cuda compiles is compiled once more, for the CPU, and told to the stand-in.

numba-cuda writes LLVM IR in NVVM's dialect: typed pointers, the GPU's registers and barriers as intrinsics, shared
memory in an address space of its own. The functions here rewrite it to what LLVM compiles for a CPU.
"""

import ctypes
import importlib
import re
from collections.abc import Sequence
from typing import Any

import llvmlite.binding as llvm

DROPPED = re.compile(r"^(?:!|target (?:triple|datalayout)).*$", re.MULTILINE)
"""Lines of metadata, and what names the GPU as the machine to compile for."""
ATTACHED = re.compile(r", ![a-z]+ !\d+")
REGISTER = re.compile(r'@"?llvm\.nvvm\.read\.ptx\.sreg\.(\w+)\.([xyz])"?')
BARRIER = re.compile(r'@"?llvm\.nvvm\.(?:barrier0|barrier\.cta\.sync\.aligned\.all)"?')
FENCE = re.compile(r'(?:call|(declare)) void @"?llvm\.nvvm\.membar\.gl"?\(\)')
"""Blocks run one after the other: that what they write stays in order is all that is asked of a fence."""
SHARED_BYTES = re.compile(r'call i32 asm sideeffect "mov\.u32 \$0, %dynamic_smem_size;", "=r"\(\)')
SHARED = re.compile(r'^(@"[^"]+") = external addrspace\(3\) global \[0 x .*\n?', re.MULTILINE)
"""The declaration of dynamic shared memory."""

QUOTED_OR_STAR = re.compile(r'("[^"]*"|\*)')
ADDRESS_SPACE = re.compile(r"\s*addrspace\(\d+\)$")
NAMED_TYPE = re.compile(r'(?:%"[^"]*"|%?[\w.]+)$')
RESULT_TYPE = re.compile(r"(?:void|ptr|i\d+|float|double|\{[^{}]*\})$")
OPENING = {"}": "{", "]": "[", ")": "("}


def pointer_to_last_type(text: str) -> str:
    """Text that ends with a type, with ``ptr`` in the type's place."""
    text = text.rstrip()
    space = ""
    if found := ADDRESS_SPACE.search(text):
        text, space = text[: found.start()], " " + found[0].strip()
    if text[-1] not in OPENING:
        return NAMED_TYPE.sub("", text) + "ptr" + space
    closing = text[-1]
    start, depth = len(text) - 1, 1
    while depth:
        start -= 1
        depth += (text[start] == closing) - (text[start] == OPENING[closing])
    before = text[:start]
    if closing == ")":  # a function's type begins with what it returns
        before = RESULT_TYPE.sub("", before.rstrip())
    return before + "ptr" + space


def opaque_pointers(line: str) -> str:
    """A line of IR with ``ptr`` where it had ``i8*``, ``{i8*, i64}**``, ``void (i8*)*`` and the like."""
    if "*" not in line or line.lstrip().startswith(";"):
        return line
    written = ""
    for piece in QUOTED_OR_STAR.split(line):
        written = pointer_to_last_type(written) if piece == "*" else written + piece
    return written


def shared_memory(text: str) -> str:
    """IR whose dynamic shared memory, whatever it was called, is the stand-in's."""
    names = set(SHARED.findall(text))
    if not names:
        return text
    text = SHARED.sub("", text)
    for name in names:
        text = text.replace(name, "@standin_shared")
    return text + "\n@standin_shared = external addrspace(3) global [0 x i8]\n"


def for_host(text: str) -> str:
    """One module of numba-cuda's IR, as a module for the CPU."""
    text = ATTACHED.sub("", DROPPED.sub("", text))
    text = "\n".join(map(opaque_pointers, text.split("\n")))
    text, count = SHARED_BYTES.subn("call i32 @standin_shared_bytes()", text)
    if count:
        text += "\ndeclare i32 @standin_shared_bytes()\n"
    text = REGISTER.sub(r"@standin_\1_\2", text)
    text = BARRIER.sub("@standin_barrier", text)
    text = FENCE.sub(lambda found: "" if found[1] else "fence seq_cst", text)
    return shared_memory(text)


def linked(texts: Sequence[str], entry: str) -> Any:
    """One module of all of a kernel's: device functions may stand in several."""
    modules = [llvm.parse_assembly(for_host(text)) for text in texts]
    for module in modules:
        for function in module.functions:
            if not function.is_declaration and function.name != entry:
                function.linkage = "linkonce_odr"
    for module in modules[1:]:
        modules[0].link_in(module)
    return modules[0]


def caller(entry: str, types: Sequence[str]) -> str:
    """IR of ``host_code`` (see standin.h): calls the kernel with arguments from an array of eight bytes each."""
    lines = [f'declare void @"{entry}"({", ".join(types)})', f'define void @"{entry}.called"(ptr %arguments) {{']
    for i, kind in enumerate(types):
        lines += [f"%place{i} = getelementptr i64, ptr %arguments, i64 {i}", f"%value{i} = load {kind}, ptr %place{i}"]
    values = ", ".join(f"{kind} %value{i}" for i, kind in enumerate(types))
    return "\n".join([*lines, f'call void @"{entry}"({values})', "ret void", "}"])


def unknown(module: Any) -> list[str]:
    """Functions that a module calls and neither the stand-in nor the C library has."""
    declared = [function.name for function in module.functions if function.is_declaration]
    wanted = [name for name in declared if name.startswith("llvm.nvvm.") or not name.startswith("llvm.")]
    return [name for name in wanted if llvm.address_of_symbol(name) is None]


class Host:
    """Compiles kernels for this CPU, and tells the stand-in of them.

    Parameters
    ----------
    library : the path of the stand-in's ``libcuda.so.1``
    """

    def __init__(self, library: str) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        llvm.load_library_permanently(library)
        self._driver = ctypes.CDLL(library)
        self._engines: list[Any] = []  # code lives as long as its engine

    def _machine(self) -> Any:
        target = llvm.Target.from_default_triple()
        return target.create_target_machine(opt=2, jit=True, codemodel="jitdefault", cpu=llvm.get_host_cpu_name())

    def add(self, texts: Sequence[str], entry: str) -> None:
        """Compile a kernel.

        Parameters
        ----------
        texts : numba-cuda's IR, module by module
        entry : the kernel's name

        Raises
        ------
        NotImplementedError : the kernel calls something of a GPU that the stand-in doesn't have
        """
        module = linked(texts, entry)
        types = [str(argument.type) for argument in module.get_function(entry).arguments]
        module.link_in(llvm.parse_assembly(caller(entry, types)))
        machine = self._machine()
        module.triple, module.data_layout = llvm.get_process_triple(), str(machine.target_data)
        module.verify()
        if missing := unknown(module):
            raise NotImplementedError(f"{entry} calls {', '.join(missing)}, which fibres.c and host.py don't know yet")
        builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
        builder.getModulePassManager().run(module, builder)
        engine = llvm.create_mcjit_compiler(module, machine)
        engine.finalize_object()
        self._engines.append(engine)
        code = ctypes.c_void_p(engine.get_function_address(f"{entry}.called"))
        self._driver.standin_register(entry.encode(), code)


def install(library: str) -> None:
    """From now on every kernel that numba-cuda compiles in this process is compiled for the host too.

    Kernels that fastbp keeps on disk are left aside: they come without the IR that the host's code is made of.

    Raises
    ------
    RuntimeError : numba-cuda's simulator is on, or numba-cuda isn't what ``numba.cuda`` comes from
    """
    device: Any = importlib.import_module("fastbp.cuda.device")
    if device.simulated() or device.package() != "numba_cuda":
        raise RuntimeError("the stand-in needs numba-cuda, with its simulator off: unset NUMBA_ENABLE_CUDASIM")
    kept: Any = importlib.import_module("fastbp.cuda.kept")
    codegen: Any = importlib.import_module("numba.cuda.codegen")
    kept.folder = lambda: None
    host = Host(library)
    machine_code = codegen.CUDACodeLibrary.get_cubin

    def get_cubin(self: Any, cc: Any = None) -> Any:
        fresh = not self._cubin_cache
        code = machine_code(self, cc)
        if fresh and self._entry_name:
            host.add(self.llvm_strs, self._entry_name)
        return code

    codegen.CUDACodeLibrary.get_cubin = get_cubin
