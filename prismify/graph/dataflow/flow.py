"""Which operands of an operator carry data: the vocabulary that roles and attention are read with."""

from __future__ import annotations

import re
from math import prod
from typing import Any

from torch import fx
from torch.utils import _pytree as pytree

CONVOLUTION = re.compile(r"^(conv[123]d|conv_transpose[123]d|_?convolution|deep_prism|deep_prism_input_grad)$")
MATMUL = {"linear", "addmm", "mm", "bmm", "matmul", "baddbmm", "einsum", "tensordot", "mv", "dot"}
RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu", "bilinear"}
ATTENTION = re.compile(r"scaled_dot_product")
SOFTMAX = {"softmax", "_softmax", "_safe_softmax", "special_softmax"}
#: Results that depend on shapes, not on values. Indices (argmin, topk) do depend on values: a quantiser's code does.
_NO_FLOW = re.compile(r"(_like|^new_|^arange|^zeros|^ones|^full|^empty|^rand|^sym_size)")
#: The second operand gives a type or a shape only.
_FIRST_ONLY = {"type_as", "expand_as", "view_as", "reshape_as", "to"}
_ELEMENTWISE = {"add", "add_", "mul", "mul_", "sub", "sub_", "div", "div_", "where", "addcmul", "lerp"}


def operator_name(node: fx.Node) -> str:
    """`conv2d`, `linear`, ...: the operator without its namespace and overload."""
    schema = getattr(node.target, "_schema", None)
    if schema is not None:
        return str(schema.name).split("::")[1]
    return str(getattr(node.target, "__name__", node.target))


def operands(node: fx.Node) -> list[fx.Node]:
    """Every node among the arguments, in order, repeats kept."""
    return [a for a in pytree.tree_leaves((node.args, node.kwargs)) if isinstance(a, fx.Node)]


def data_operands(node: fx.Node) -> list[fx.Node]:
    """The operands whose values flow into the node's."""
    if node.op == "output":
        return operands(node)
    name = operator_name(node)
    if node.op != "call_function" or _NO_FLOW.search(name):
        return []
    found = operands(node)
    if name in _FIRST_ONLY:
        return found[:1]
    return found[:3] if ATTENTION.search(name) else found


def followed_backwards(node: fx.Node) -> list[fx.Node]:
    """`data_operands`, less what an element-wise operator broadcasts: gates, scales, time embeddings."""
    found = data_operands(node)
    if operator_name(node) in _ELEMENTWISE:
        return [a for a in found if numel(a) == numel(node)] or found
    return found


def numel(node: fx.Node) -> int:
    return prod(shape(node))


def shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta.get("shape", ()))


def output_nodes(graph: fx.Graph) -> list[fx.Node]:
    output: Any = next(n for n in reversed(graph.nodes) if n.op == "output")
    return operands(output)


def drew(graph: fx.Graph) -> bool:
    """Whether random numbers were drawn in the call that a graph records."""
    return bool(next(n for n in reversed(graph.nodes) if n.op == "output").meta.get("drew"))


def is_continuous(node: fx.Node) -> bool:
    """Whether a node holds real or complex numbers, and no indices or masks."""
    dtype = node.meta.get("dtype")
    return dtype is None or dtype.is_floating_point or dtype.is_complex
