"""Plain Python values that modules hold beside modules and tensors, in a form that the restricted reader takes.

A skeleton is pickled, and read without running what it holds. Python pickles functions, bound methods, slices and
numpy's numbers by way of functions that could run anything (`builtins.getattr`). Here each goes by a function of this
file instead, which makes that kind of value and nothing else. Skeletons name these functions: they stay where they are.
"""

from __future__ import annotations

import pickle
import types
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import get_testing_overrides

_NUMBERS = "biufc"
_HOMES = (nn.functional, torch, torch.special)


def torch_function(name: str) -> Any:
    """A function of torch's on tensors, `conv2d` or `tanh`, by its name.

    Raises:
        ValueError: there is none of that name that computes a tensor of tensors.
    """
    for home in _HOMES:
        if not name.startswith("_") and _computes(found := getattr(home, name, None)):
            return found
    raise ValueError(f"torch has no function {name!r} on tensors")


def method(holder: Any, name: str) -> types.MethodType:
    """A method of a module, bound to it.

    Raises:
        ValueError: it is no module, or its class has no such function.
    """
    function = getattr(type(holder), name, None)
    if not isinstance(holder, nn.Module) or not isinstance(function, types.FunctionType):
        raise ValueError(f"{type(holder).__name__} is no module with a method {name!r}")
    return types.MethodType(function, holder)


def python_slice(start: Any, stop: Any, step: Any) -> slice:
    """A slice."""
    return slice(start, stop, step)


def number(dtype: str, value: Any) -> Any:
    """A scalar of numpy's.

    Raises:
        ValueError: the type is not one of numbers.
    """
    return _numeric(dtype).type(value)


def array(dtype: str, values: Tensor) -> Any:
    """An array of numpy's, from a tensor.

    Raises:
        ValueError: the type is not one of numbers.
    """
    return values.numpy().astype(_numeric(dtype))


def numpy_dtype(name: str) -> Any:
    """A type of numpy's.

    Raises:
        ValueError: it is not one of numbers.
    """
    return _numeric(name)


#: What the restricted reader may call, by the names that pickles have.
READABLE: dict[str, Any] = {
    f"{function.__module__}.{function.__name__}": function
    for function in (torch_function, method, python_slice, number, array, numpy_dtype)
}


def reduced(value: Any) -> Any:
    """How a value is pickled by one of the functions above; NotImplemented for what pickles by itself.

    Raises:
        PicklingError: no form of it can be read again.
    """
    if isinstance(value, (type, types.FunctionType)) and "." in (name := value.__qualname__) and "<" not in name:
        raise pickle.PicklingError(
            f"{value.__module__}.{name} stands inside a class, where a file cannot name it safely"
        )
    if isinstance(value, types.MethodType):
        if isinstance(value.__self__, nn.Module):
            return method, (value.__self__, value.__func__.__name__)
        raise pickle.PicklingError(f"{value.__func__.__qualname__} is a method of no module")
    if isinstance(value, (types.BuiltinFunctionType, types.FunctionType)):
        name = value.__name__
        if _computes(value) and any(getattr(home, name, None) is value for home in _HOMES):
            return torch_function, (name,)
        if isinstance(value, types.BuiltinFunctionType):
            raise pickle.PicklingError(f"the function {name} of Python's own cannot be read again safely")
        return NotImplemented
    if isinstance(value, slice):
        return python_slice, (value.start, value.stop, value.step)
    if isinstance(value, np.generic) and value.dtype.kind in _NUMBERS:
        return number, (value.dtype.str, value.item())
    if type(value) is np.ndarray and value.dtype.kind in _NUMBERS:
        try:
            return array, (value.dtype.str, torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="))))
        except TypeError as error:
            raise pickle.PicklingError(f"an array of {value.dtype} has no form that torch saves") from error
    if isinstance(value, np.dtype) and value.kind in _NUMBERS:
        return numpy_dtype, (value.str,)
    return NotImplemented


class Pickler(pickle.Pickler):
    """Python's, with `reduced` forms."""

    def reducer_override(self, value: Any) -> Any:
        return reduced(value)


#: In the place of the module `pickle`, for `torch.save`.
readable_pickle = types.SimpleNamespace(Pickler=Pickler, __name__="pickle", dump=pickle.dump, dumps=pickle.dumps)


def _computes(function: Any) -> bool:
    """Whether a function is one that tensors may override: torch's own list of what computes tensors of tensors."""
    return callable(function) and not isinstance(function, type) and function in get_testing_overrides()


def _numeric(name: str) -> Any:
    found = np.dtype(str(name))
    if found.kind not in _NUMBERS:
        raise ValueError(f"{name!r} is no type of numbers")
    return found
