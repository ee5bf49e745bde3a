"""Counting: parameters, multiply-adds (MACs) and bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import Tensor, fx, nn

from ..errors import PlanError
from ..graph.dataflow.flow import ATTENTION, CONVOLUTION, MATMUL, data_operands, operator_name, shape
from ..layers import Operator
from .projections import InProjection

_RECURRENT = {f"{kind}{cell}" for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu") for cell in ("", "_cell")}


def unique(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Each tensor object once, in order: tied weights and shared modules count once."""
    return list({id(t): t for t in tensors}.values())


def parameter_count(model: nn.Module) -> int:
    """Numbers in the model's unique parameters; buffers are not counted.

    Raises:
        PlanError: a lazy module has not been given its shape yet.
    """
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise PlanError(f"{name} has no shape yet (lazy module): run the model once, then scan it")
    return sum(p.numel() for p in unique(model.parameters()))


def state_bytes(model: nn.Module) -> int:
    """Bytes of the model's state dict as a checkpoint stores it, tied tensors once."""
    return sum(
        t.numel() * t.element_size()
        for t in unique(v for v in model.state_dict(keep_vars=True).values() if isinstance(v, Tensor))
    )


@dataclass(frozen=True)
class Counted:
    """What a replacement amounts to: numbers in weights and in biases (if it has any), and multiply-adds."""

    weights: int
    biases: int
    macs: int


@dataclass(frozen=True)
class Work:
    """What the cost of a layer's replacement depends on, beside the operator.

    Args:
        input_numel, output_numel: elements that the layer reads and makes in one pass.
        transposed: whether each input element goes to many of the output, as in transposed convolutions.
        projections: of a packed attention.
    """

    kernel_size: tuple[int, ...]
    out_channels: int
    input_numel: int
    output_numel: int
    transposed: bool = False
    projections: tuple[InProjection, ...] = ()


def count_operator(operator: Operator, work: Work) -> Counted:
    """The numbers and multiply-adds of a layer's replacement."""
    if operator.type == "PrismMultihead":
        return _count_packed(operator, work)
    if work.transposed:
        turned = replace(operator, volumes=operator.volumes[::-1])
        macs = work.input_numel * operator_macs(turned, work.kernel_size)
    else:
        macs = work.output_numel * operator_macs(operator, work.kernel_size)
    weights = operator_weights(operator, work.kernel_size)
    return Counted(weights, operator_bias(operator, work.out_channels), macs)


def _count_packed(operator: Operator, work: Work) -> Counted:
    weights = biases = macs = 0
    channels = work.out_channels
    for projection in work.projections:
        p, q, k = projection.width, channels, 1
        if projection.part in operator.projections:
            depth = channels // operator.volumes[1]
            p, q, k = projection.width // depth, channels // depth, operator.channel_kernel_size
        weights += p * q * k
        biases += {"channel": channels, "scalar": q, "none": 0}[operator.bias]
        macs += projection.output_numel * p * k
    return Counted(weights, biases, macs)


def operator_weights(operator: Operator, kernel_size: tuple[int, ...]) -> int:
    """Numbers in the weights of a replacement: Q*P*K_C*K_H*K_W, and K_H*K_W + K_C of a PrismConv."""
    if operator.type == "PrismConv":
        return prod(kernel_size) + operator.channel_kernel_size
    return operator_macs(operator, kernel_size) * operator.volumes[1]


def operator_bias(operator: Operator, out_channels: int) -> int:
    """Numbers in the bias of a replacement, where the replaced layer has one."""
    return {"scalar": operator.volumes[1], "channel": out_channels, "none": 0}[operator.bias]


def operator_macs(operator: Operator, kernel_size: tuple[int, ...]) -> int:
    """Multiply-adds of a replacement for each element of its output: P*K_C*K_H*K_W."""
    return operator.volumes[0] * operator.channel_kernel_size * prod(kernel_size)


def node_macs(node: fx.Node) -> int:
    """Multiply-adds of one operator of a captured graph; zero for anything but products."""
    if node.op != "call_function":
        return 0
    name, out = operator_name(node), prod(shape(node))
    operands = data_operands(node)
    if CONVOLUTION.match(name):
        data, weight = operands[0], operands[1]
        transposed = (
            "transpose" in name
            or name.endswith("input_grad")
            or (name.endswith("convolution") and node.args[6] is True)
        )
        return prod(shape(data) if transposed else shape(node)) * prod(shape(weight)[1:])
    if ATTENTION.search(name):
        query, key, value = (shape(n) for n in operands[:3])
        scores = prod(query[:-1]) * key[-2]
        return scores * (query[-1] + value[-1])
    if name == "linear":
        return out * shape(operands[1])[-1]
    if name in ("addmm", "baddbmm"):
        return out * shape(operands[1])[-1]
    if name in _RECURRENT:
        # Every step multiplies by every matrix; packed sequences have their steps in one axis.
        return prod(shape(operands[0])[:-1]) * sum(
            prod(shape(n)) for n in operands if n.op == "get_attr" and len(shape(n)) == 2
        )
    if name == "bilinear":
        return out * prod(shape(operands[2])[1:])
    if name == "tensordot":
        dims: Any = node.args[2] if len(node.args) > 2 else node.kwargs["dims_self"]
        return out * prod(shape(operands[0])[int(d)] for d in dims)
    if name in MATMUL - {"einsum", "tensordot"}:
        return out * shape(operands[0])[-1]
    if name == "einsum" and len(operands) == 2:
        return _einsum_macs(str(node.args[0]), [shape(n) for n in operands])
    return 0


def _einsum_macs(equation: str, shapes: list[tuple[int, ...]]) -> int:
    terms = equation.replace(" ", "").split("->")[0].split(",")
    if len(terms) != len(shapes):
        return 0
    # The axes behind `...` are aligned at their end, as broadcasting aligns them.
    extra = [len(s) - len(t.replace("...", "")) for t, s in zip(terms, shapes, strict=True)]
    hidden = [chr(ord("A") + i) for i in range(26)]
    terms = [t.replace("...", "".join(hidden[26 - n :])) for t, n in zip(terms, extra, strict=True)]
    sizes = {letter: size for term, s in zip(terms, shapes, strict=True) for letter, size in zip(term, s, strict=False)}
    return prod(sizes.values())
