"""What kernels are made of: functions that Numba types and lowers one by one, and that are optimised where they end up.

By itself Numba optimises every function, and makes machine code of it, before it links a copy of it into each caller,
where all is done again: half of the time that a kernel takes to compile, for code that nobody calls.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import njit
from numba.core.compiler import Compiler

#: Whether parts are left to the kernels they end up in. `compile` gives that up where a Numba has other ways inside.
left_to_kernels = True

LEAN = {"boundscheck": False, "error_model": "numpy", "_nrt": False}


class _PartCompiler(Compiler):
    def define_pipelines(self) -> list[Any]:
        pipelines: list[Any] = super().define_pipelines()
        if left_to_kernels:
            lowering, ours = _lowering()
            for pipeline in pipelines:
                pipeline.passes = [(ours if found is lowering else found, why) for found, why in pipeline.passes]
                pipeline.finalize()
        return pipelines


@cache
def _lowering() -> tuple[Any, Any]:
    """Numba's pass that ends with machine code, and ours that ends before; in a function, since they are its inside."""
    from numba import _dynfunc
    from numba.core.codegen import JITCodeLibrary
    from numba.core.compiler_machinery import register_pass
    from numba.core.typed_passes import NativeLowering

    class Part(JITCodeLibrary):
        """A function's code, and that of all it calls, as it was lowered."""

        def finalize(self) -> None:
            for library in dict.fromkeys(self._linking_libraries):
                self._reload_init.update(library._reload_init)
                self._final_module.link_in(library._get_module_for_linking(), preserve=True)
            self._finalized = True

    @register_pass(mutates_CFG=True, analysis_only=False)
    class PartLowering(NativeLowering):
        _name = "part_lowering"

        def run_pass(self, state: Any) -> bool:
            part = state.library = Part(state.targetctx.codegen(), state.func_id.func_qualname)
            state.flags.no_compile = True
            super().run_pass(state)
            described, environment = state["cr"].fndesc, state["cr"].env
            if not state.flags.forceinline:
                # A kernel's innermost loops need its registers, which what surrounds them would take.
                part._final_module.get_function(described.llvm_func_name).add_function_attribute("noinline")
            part._get_module_for_linking()  # now, and not when a caller has counted on it
            # Callers know a function by an object, which has no address here.
            entry = _dynfunc.make_function(described.lookup_module(), described.qualname, "", 0, environment, (part,))
            state.targetctx.insert_user_function(entry, described, [part])
            state["cr"] = state["cr"]._replace(cfunc=entry)
            return True

    return NativeLowering, PartLowering


#: Parts need no way in from Python, and have nothing that Numba would rewrite.
_lean_part = {
    "pipeline_class": _PartCompiler, "no_cpython_wrapper": True, "no_cfunc_wrapper": True, "no_rewrites": True, **LEAN
}  # fmt: skip
#: A function that a kernel calls.
inner = njit(**_lean_part)
#: One that stays in its caller: where vectors stay in registers, or a call would take longer than what it does.
inlined = njit(forceinline=True, **_lean_part)
