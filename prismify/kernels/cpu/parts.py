"""What kernels are made of: functions that Numba types and lowers one by one, and that are optimised where they end up.

By itself Numba optimises every function, and makes machine code of it, before it links a copy of it into each caller,
where all is done again: half of the time that a kernel takes to compile, for code that nobody calls.
"""

from __future__ import annotations

from typing import Any

from numba import _dynfunc, njit
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering

#: Whether parts are left to the kernels they end up in. `compile` gives that up where a Numba has other ways inside.
left_to_kernels = True

#: Parts need no way in from Python, and nothing allocates: both would cost seconds of compilation.
LEAN = {"boundscheck": False, "error_model": "numpy", "_nrt": False}


class _Part(JITCodeLibrary):
    """A function's code, and that of all it calls, as it was lowered."""

    def finalize(self) -> None:
        for library in dict.fromkeys(self._linking_libraries):
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _PartLowering(NativeLowering):
    _name = "part_lowering"

    def run_pass(self, state: Any) -> bool:
        state.library = _Part(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        described, environment = state["cr"].fndesc, state["cr"].env
        if not state.flags.forceinline:
            # A kernel's innermost loops need its registers, which what is done once a row would take from them.
            function = state.library._final_module.get_function(described.llvm_func_name)
            function.add_function_attribute("noinline")
        # Callers know a function by an object, which has no address here.
        name = described.qualname
        entry = _dynfunc.make_function(described.lookup_module(), name, "", 0, environment, (state.library,))
        state.targetctx.insert_user_function(entry, described, [state.library])
        state["cr"] = state["cr"]._replace(cfunc=entry)
        return True


class _PartCompiler(Compiler):
    def define_pipelines(self) -> list[Any]:
        pipelines: list[Any] = super().define_pipelines()
        if left_to_kernels:
            for pipeline in pipelines:
                pipeline.passes = [
                    (_PartLowering if found is NativeLowering else found, why) for found, why in pipeline.passes
                ]
                pipeline.finalize()
        return pipelines


_lean_part = {
    "pipeline_class": _PartCompiler,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "no_rewrites": True,
    **LEAN,
}
#: For what runs once a row, or once a call.
inner = njit(**_lean_part)
#: For what runs once a vector, which stays in registers: a call would take longer than its work.
inlined = njit(forceinline=True, **_lean_part)
