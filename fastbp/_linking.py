"""Floor 0: how Numba makes machine code of our functions: once for each kernel, with all that it calls.

Numba optimises every jitted function together with what it calls, makes machine code of it, and does so again in each
of its callers, so that the time grows with the square of the depth. Here a helper is only lowered to LLVM's
intermediate code; a kernel links each helper that it reaches once, and LLVM sees the whole at once.
"""

from typing import Any

from llvmlite.binding import Linkage
from numba import _dynfunc
from numba.core import codegen, compiler, registry, typed_passes
from numba.core.compiler_machinery import register_pass


class _Library(codegen.JITCodeLibrary):  # type: ignore[misc]
    """A function's code, and of what it calls each library once."""

    def add_linking_library(self, library: Any) -> None:
        # callers first: LLVM links only what is asked for already
        reached = (library, *(library._linking_libraries if isinstance(library, _Lowered) else ()))
        for each in reached:
            if each not in self._linking_libraries:
                super().add_linking_library(each)


class _Lowered(_Library):
    """A helper's code, to be linked; of itself never optimised and never run."""

    def _optimize_functions(self, module: Any) -> None:
        module.data_layout = self._codegen._data_layout

    def finalize(self) -> None:
        for function in self._final_module.functions:
            if not function.is_declaration and function.linkage == Linkage.external:
                function.linkage = "linkonce_odr"
        self._shared_module = self._final_module
        self._finalized = True


class _Lowering(typed_passes.NativeLowering):  # type: ignore[misc]
    library_class: type[_Library] = _Library

    def run_pass(self, state: Any) -> bool:
        state.library = self.library_class(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return bool(super().run_pass(state))


@register_pass(mutates_CFG=True, analysis_only=False)
class _KernelLowering(_Lowering):
    _name = "fastbp_kernel_lowering"


@register_pass(mutates_CFG=True, analysis_only=False)
class _HelperLowering(_Lowering):
    _name = "fastbp_helper_lowering"
    library_class = _Lowered

    def run_pass(self, state: Any) -> bool:
        state.flags.no_compile = True
        super().run_pass(state)
        lowered, library = state["cr"], state.library
        library._ensure_finalized()
        name = lowered.fndesc.qualname
        unrunnable = _dynfunc.make_function(lowered.fndesc.lookup_module(), name, name, 0, lowered.env, (library,))
        state.targetctx.insert_user_function(unrunnable, lowered.fndesc, [library])
        state["cr"] = lowered._replace(cfunc=unrunnable)
        return True


class _Compiler(compiler.CompilerBase):  # type: ignore[misc]
    lowering: type[_Lowering] = _KernelLowering

    def define_pipelines(self) -> list[Any]:
        passes = compiler.DefaultPassBuilder.define_nopython_pipeline(self.state)
        theirs = next(i for i, (each, _) in enumerate(passes.passes) if each is typed_passes.NativeLowering)
        passes.passes[theirs] = self.lowering, "lowering"
        passes.finalize()
        return [passes]


class _HelperCompiler(_Compiler):
    lowering = _HelperLowering


class Function(registry.CPUDispatcher):  # type: ignore[misc]
    """A jitted function that is compiled for itself: a kernel, or a helper that Python calls."""

    def __init__(self, function: Any, options: dict[str, Any], compiler_class: Any = _Compiler) -> None:
        super().__init__(function, targetoptions={**options, "nopython": True}, pipeline_class=compiler_class)


class Helper(Function):
    """A jitted function that becomes part of what calls it; Python calls one that is compiled for that."""

    def __init__(self, function: Any, options: dict[str, Any]) -> None:
        apart = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
        super().__init__(function, {**options, **apart}, _HelperCompiler)
        self._options = options

    def __call__(self, *arguments: Any) -> Any:
        if "alone" not in vars(self):
            self.alone = Function(self.py_func, self._options)
        return self.alone(*arguments)
