"""An ONNX graph made simpler, and what is not needed left out of it."""

from __future__ import annotations

import re
from typing import Any

import onnx_ir.passes.common as passes
from onnxscript import optimizer, rewriter
from onnxscript.rewriter.rules import common as rules

#: Constants are folded where little goes in and little comes out: a band of weights is left to the runtime.
_FOLDED_IN, _FOLDED_OUT = 64, 256
#: What axes are called, by how many there are.
_SIZES = {
    1: ("batch",),
    2: ("batch", "length"),
    3: ("batch", "length", "channels"),
    4: ("batch", "channels", "height", "width"),
    5: ("batch", "channels", "frames", "height", "width"),
}
#: What changes no number. Those for `x + 0` and its like are not among them: they take 1e-15 for 0, which some models
#: divide by.
_RULES = (
    rules.cast_cast_rule,
    rules.collapse_slice_rule,
    rules.collapse_slice2_rule,
    rules.flatten_to_reshape_rule,
    rules.fuse_pad_into_conv_rule,
    rules.materialize_reshape_shape_rule,
    rules.no_op_cast_rule,
    rules.no_op_expand_rule,
    rules.no_op_transpose_rule,
    rules.normalize_pad_format_conv_rule,
    rules.one_reshape_matmul_reshape_rule,
    rules.reshape_reshape_rule,
    rules.slice_split_rule,
    rules.squeeze_reshape_1d_rule,
    rules.transpose_transpose_rule,
    rules.two_reshapes_matmul_reshape_rule,
    rules.unsqueeze_unsqueeze_rule,
)
#: Folding and rewriting, in turn.
_ROUNDS = 2


def simplify(model: Any) -> None:
    """Fold small constants and drop nodes that do nothing, in place; every number stays what it is.

    This is what `onnxscript.optimizer.optimize` does, less the rules above.
    """
    passes.InlinePass()(model)
    for _ in range(_ROUNDS):
        optimizer.fold_constants(
            model, onnx_shape_inference=True, input_size_limit=_FOLDED_IN, output_size_limit=_FOLDED_OUT
        )
        rewriter.rewrite(model, _RULES)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.LiftSubgraphInitializersToMainGraphPass()(model)
    passes.DeduplicateInitializersPass()(model)
    passes.CommonSubexpressionEliminationPass()(model)
    passes.OutputFixPass()(model)
    passes.NameFixPass()(model)


def forget_sources(model: Any) -> None:
    """Drop what the exporter notes of every node: lines of Python, which are most of a small model's file."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def name_sizes(model: Any) -> None:
    """Call open sizes of the inputs by what they are, in all shapes of the graph: torch numbers them."""
    names: dict[str, str] = {}
    for value in model.graph.inputs:
        for axis, size in enumerate(value.shape or ()):
            if re.fullmatch(r"s\d+", str(size)) and str(size) not in names:
                wanted = _SIZES[len(value.shape)][axis] if len(value.shape) in _SIZES else "size"
                names[str(size)] = wanted if wanted not in names.values() else f"{wanted}_{len(names)}"
    written = re.compile(r"\bs\d+\b")
    nodes = [output for node in model.graph.all_nodes() for output in node.outputs]
    for value in (*model.graph.inputs, *nodes) if names else ():
        for axis, size in enumerate(value.shape or ()):
            text = written.sub(lambda found: names.get(found[0], found[0]), str(size))
            if text != str(size):
                value.shape[axis] = text
