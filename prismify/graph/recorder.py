"""Record the operators that one call of a model runs, as a `torch.fx.Graph`.

Under `torch.inference_mode()` composite operators (`conv2d`, `linear`, `matmul`,
`scaled_dot_product_attention`) reach a dispatch mode whole, so the graph speaks the language of layers.
Nodes carry in `meta`:

    shape, dtype   of the (first) tensor the node returns
    module         qualified name of the innermost module that was running
    call           how often that module had been called before
    parameter      every name of the parameter (`get_attr` nodes only)
    written        the call gave that parameter other values or other memory
    identity       the id of a tensor that is neither (`get_attr` nodes only)
    drew           random numbers were drawn in the call (the output node only)
"""

from __future__ import annotations

import operator
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from .draws import drawn
from .inputs import ExampleInputs, tensors_in
from .known import KnownValues

_PLAIN = (int, float, bool, str, complex, torch.dtype, torch.device, torch.layout, torch.memory_format)


def after_write(value: Tensor, write: Tensor) -> Tensor:
    """`value`, whose storage was meanwhile written through another view by the node `write`."""
    return value


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Builds `graph` while active; parameters and inputs are known by identity.

    Args:
        model: whose module and parameter names the nodes carry.
        inputs: (name, tensor) pairs that become placeholders.
        held: generators of the model's own, as `undisturbed` finds them: whether they drew is noted on the output.
    """

    def __init__(self, model: nn.Module, inputs: list[tuple[str, Tensor]], held: Sequence[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = fx.Graph()
        self._nodes: dict[int, fx.Node] = {}
        self._alive: list[Tensor] = []  # an id, or a storage's address, means nothing once its owner is gone
        self._written: dict[int, fx.Node] = {}
        self._position: dict[fx.Node, int] = {}
        self._modules = {module: name for name, module in model.named_modules()}
        self._calls: Counter[str] = Counter()
        self._stack: list[tuple[str, int]] = [("", 0)]
        self._parameters: dict[int, list[str]] = defaultdict(list)
        self._buffers: dict[int, str] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self._parameters[id(parameter)].append(name)
        for name, buffer in model.named_buffers(remove_duplicate=False):
            self._buffers.setdefault(id(buffer), name)
        self._memory = {id(p): p.untyped_storage()._cdata for p in model.parameters()}
        self._kept = list(model.parameters())
        self._held = held
        self._drawn = drawn(self._held)
        self._known = KnownValues(model, [tensor for _, tensor in inputs])
        for name, tensor in inputs:
            node = self.graph.placeholder(name.replace(".", "_"))
            self._bind(node, tensor)

    def enter_module(self, module: nn.Module, args: Any) -> None:
        name = self._modules.get(module, self._stack[-1][0])
        self._stack.append((name, self._calls[name]))
        self._calls[name] += 1

    def leave_module(self, module: nn.Module, args: Any, output: Any) -> None:
        self._stack.pop()

    def finish(self, output: Any) -> fx.Graph:
        """Close the graph on every tensor found in `output`, however nested."""
        for parameter in self._kept:
            now = parameter.untyped_storage()._cdata
            if now != self._memory[id(parameter)] or now in self._written:
                names = self._parameters[id(parameter)]
                node = self.graph.create_node("get_attr", names[0])
                node.meta.update(parameter=tuple(names), written=True, module="", call=0, shape=tuple(parameter.shape))
                node.meta["dtype"] = parameter.dtype
        output_node = self.graph.output(tuple(self._node_of(t) for t in tensors_in(output)))
        output_node.meta["drew"] = drawn(self._held) != self._drawn
        return self.graph

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        node_args, node_kwargs = pytree.tree_map(self._argument, (args, kwargs))
        given = {**dict(zip((a.name for a in func._schema.arguments), args, strict=False)), **kwargs}
        targets = [
            given.get(argument.name)
            for argument in func._schema.arguments
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
        written = [t for t in pytree.tree_leaves(targets) if isinstance(t, Tensor)]
        out = self._known.run(func, args, kwargs, written)
        returned = [t for t in pytree.tree_leaves(out) if isinstance(t, Tensor)]
        if not returned and not written:
            return out
        node = self.graph.call_function(func, node_args, node_kwargs)
        if isinstance(out, Tensor) or not returned:
            self._bind(node, *returned[:1], *written)
        else:
            self._bind(node, *written)
            node.meta.update(shape=tuple(returned[0].shape), dtype=returned[0].dtype)
            for index, value in enumerate(out):
                if isinstance(value, Tensor):
                    self._bind(self.graph.call_function(operator.getitem, (node, index)), value)
        for value in written:
            self._written[value.untyped_storage()._cdata] = node
        return out

    def _bind(self, node: fx.Node, *tensors: Tensor) -> None:
        module, call = self._stack[-1]
        node.meta.update(module=module, call=call)
        self._position.setdefault(node, len(self._position))
        for tensor in tensors:
            node.meta.setdefault("shape", tuple(tensor.shape))
            node.meta.setdefault("dtype", tensor.dtype)
            self._nodes[id(tensor)] = node
            self._alive.append(tensor)

    def _argument(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._node_of(value)
        return value if value is None or isinstance(value, _PLAIN) else str(value)

    def _node_of(self, tensor: Tensor) -> fx.Node:
        node = self._nodes.get(id(tensor)) or self._constant(tensor)
        write = self._written.get(tensor.untyped_storage()._cdata)
        if write is not None and self._position[write] > self._position[node]:
            node = self.graph.call_function(after_write, (node, write))
            self._bind(node, tensor)
        return node

    def _constant(self, tensor: Tensor) -> fx.Node:
        names = self._parameters.get(id(tensor), [])
        buffer = self._buffers.get(id(tensor))
        target = names[0] if names else buffer or f"_constant_{len(self._position)}"
        node = self.graph.create_node("get_attr", target)
        if names:
            node.meta["parameter"] = tuple(names)
        else:
            node.meta["identity"] = id(tensor)
        self._bind(node, tensor)
        return node


@contextmanager
def module_hooks(recorder: Recorder) -> Iterator[None]:
    """Tell a recorder which module runs."""
    registry = nn.modules.module
    hooks = (
        registry.register_module_forward_pre_hook(recorder.enter_module),
        registry.register_module_forward_hook(recorder.leave_module, always_call=True),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def record(model: nn.Module, method: str, inputs: ExampleInputs, held: Sequence[Any]) -> fx.Graph:
    """Run `model.<method>` once and return the operators it ran; errors of the model come through.

    Args:
        held: as of a `Recorder`.
    """
    recorder = Recorder(model, inputs.tensors(), held)
    with module_hooks(recorder), torch.inference_mode(), recorder:
        output = getattr(model, method)(*inputs.args, **inputs.kwargs)
    return recorder.finish(output)
