"""What an exported program's file may hold so that reading it runs nothing the file brings along.

`torch.export.load` unpickles without limits, loads compiled libraries, evaluates size expressions and guards as
Python, imports modules that calling conventions name, and makes Python code of the names in the graph. So the
file is read first as data, and refused where it holds more than a graph of known operators and tensors.
"""

from __future__ import annotations

import ast
import io
import json
import keyword
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ...errors import SourceError, UnsafePickleError
from .zips import MOST_UNPACKED, Archive, open_archive

_PLAIN_RECORDS = re.compile(
    r"(archive_format|archive_version|byteorder|\.data/\w+|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|extra/.*)$"
)
_COMPILED = ("data/aotinductor/", "data/executorch/")
_NAME = re.compile(r"[\w.\-]*$")
_TEXT = re.compile(r"[\w.\-+*:/,;<>=()\[\]{}@#$%&!?|~^ ]*$")
_SYMBOL = re.compile(r"[a-z]+\d+$")
_FUNCTIONS = {
    "FloorDiv", "ModularIndexing", "Where", "PythonMod", "Mod", "CleanDiv", "CeilToInt", "FloorToInt", "CeilDiv",
    "FloatTrueDiv", "IntTrueDiv", "IsNonOverlappingAndDenseIndicator", "TruncToFloat", "TruncToInt", "RoundToInt",
    "RoundDecimal", "ToFloat", "Identity", "Max", "Min", "Pow", "PowByNatural", "FloatPow", "Abs", "Eq", "Ne", "Lt",
    "Le", "Gt", "Ge", "And", "Or", "Not", "floor", "ceiling", "sqrt", "oo", "int_oo", "Symbol", "Integer", "Float",
    "Rational", "Add", "Mul", "Equality", "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan",
    "GreaterThan",
}  # fmt: skip
_POWERS = {"Pow", "PowByNatural", "FloatPow"}
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims|torchvision)\.\w+\.\w+$|torch\._?sym_\w+$"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|neg|pos|pow|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)$"
    r"|math\.(ceil|floor|trunc|sqrt)$"
)
_HIGHER = re.compile(
    r"torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast|cond|while_loop|map|map_impl|scan"
    r"|associative_scan|flex_attention|flex_attention_backward|auto_functionalized|auto_functionalized_v2|strict_mode"
    r"|invoke_subgraph|tag_activation_checkpoint|hints_wrapper)$"
)
#: Operators of torch's own that write or read files.
_FILES = re.compile(r"torch\.ops\.aten\.(save|from_file)\.")
_GUARD_NAMES = {"L", "torch", "math", "max", "min", "True", "False", "None"}
_GUARD_ATTRIBUTES = {"size", "stride", "dim", "shape", "storage_offset", "sym_max", "sym_min", "sym_float", "sym_not",
                     "sym_int", "sym_ite", "inf", "isnan", "trunc", "ceil", "floor", "sqrt"}  # fmt: skip
_FACTORIES = {"list", "dict", "int", "float", "str", "tuple", "set", "bool"}
_METADATA = {"stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "custom", "from_node"}
_LONGEST = 4000
#: Numbers that a constant may show by repeating those it holds, such as a mask.
_MOST_SHARED = 1 << 26


def check_program(path: Path) -> None:
    """See that reading an exported program's file runs no code.

    Raises:
        UnsafePickleError: it holds something that could; nothing of it was run.
        SourceError: it is damaged, or no exported program.
    """
    with open_archive(path) as archive:
        for name in archive.sizes:
            if name.startswith(_COMPILED):
                raise UnsafePickleError(f"{path} holds compiled code ({name}); export the model without compiling it")
            if not _PLAIN_RECORDS.match(name):
                raise _unsafe(path, f"the record {name!r}")
        if "models/model.json" not in archive.sizes:
            raise SourceError(f"{path} is not an exported program: it has no models/model.json")
        try:
            for kind in ("weights", "constants"):
                _check_payload(path, archive, kind)
            _check_pickle(path, archive.read("data/sample_inputs/model.pt"), "its example inputs")
            _check(json.loads(archive.read("models/model.json")), "", path)
        except SourceError:
            raise
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            text = " ".join(str(error).split())[:200]
            raise SourceError(f"{path} is damaged: {type(error).__name__}: {text}") from error


def _unsafe(path: Path, what: str) -> UnsafePickleError:
    return UnsafePickleError(
        f"{path} holds {what[:200]}, which could run code; nothing was run. If you trust it, add --trust-pickle"
    )


def _check_payload(path: Path, archive: Archive, kind: str) -> None:
    """The tensors of a program: known records, and sizes that make no more of them than they hold."""
    config = json.loads(archive.read(f"data/{kind}/model_{kind}_config.json"))
    for name, entry in config["config"].items():
        record = f"data/{kind}/{entry['path_name']}"
        if not _NAME.match(name) or not _NAME.match(entry["path_name"]):
            raise _unsafe(path, f"the name {name!r}")
        if record not in archive.sizes:
            raise SourceError(f"{path} is damaged: it has no record {record}")
        if entry["use_pickle"]:
            _check_pickle(path, archive.read(record), name)
            continue
        meta = entry["tensor_meta"]
        sizes: list[int] = [int(size["as_int"]) for size in meta["sizes"]]
        strides: list[int] = [int(step["as_int"]) for step in meta["strides"]]
        # A record without bytes is made of zeros, as large as the file says.
        if not archive.sizes[record] and all(sizes):
            raise SourceError(f"{path} is damaged: {name} has no values")
        if math.prod(sizes) > MOST_UNPACKED * archive.sizes[record] + _MOST_SHARED:
            raise SourceError(f"{path} is damaged: {name} has the sizes {sizes}, more than its record holds")
        if len(sizes) != len(strides) or min([*sizes, *strides, int(meta["storage_offset"]["as_int"])]) < 0:
            raise SourceError(f"{path} is damaged: the sizes of {name} are not those of a tensor")


def _check_pickle(path: Path, content: bytes, what: str) -> None:
    """A pickle that `weights_only` reads holds nothing that runs, by whatever reader it is read."""
    if not content:
        return
    try:
        torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception as error:
        raise _unsafe(path, f"a pickle ({what})") from error


def _check(value: Any, key: str, path: Path) -> None:
    """Every string in the graph, judged by the key it stands under."""
    if isinstance(value, dict):
        if key == "metadata":
            if set(value) - _METADATA:
                raise _unsafe(path, f"metadata {sorted(set(value) - _METADATA)[0]!r}")
            return
        for name, inner in value.items():
            if not _NAME.match(name):
                raise _unsafe(path, f"the name {name!r}")
            _check(inner, name if isinstance(inner, (str, list)) or name == "metadata" else "", path)
    elif isinstance(value, list):
        for inner in value:
            _check(inner, key, path)
    elif isinstance(value, str) and not _RULES.get(key, _is_text)(value):
        raise _unsafe(path, f"{value!r} as {key or 'text'}")


def _is_name(text: str) -> bool:
    return bool(_NAME.match(text)) and not any(map(keyword.iskeyword, text.split(".")))


def _is_text(text: str) -> bool:
    return bool(_TEXT.match(text))


def _is_operator(text: str) -> bool:
    return bool((_OPERATOR.match(text) and not _FILES.match(text)) or _HIGHER.match(text))


def _is_expression(text: str) -> bool:
    """Arithmetic on sizes: numbers, symbols and torch's functions of them; small powers only."""
    tree = _parsed(text)
    return tree is not None and all(map(_is_arithmetic, ast.walk(tree)))


def _is_arithmetic(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp):
        return not isinstance(node.op, (ast.Pow, ast.LShift)) or _is_small(node.right)
    if isinstance(node, ast.Call):
        known = isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS
        power = known and node.func.id in _POWERS  # type: ignore[attr-defined]
        return known and (not power or (len(node.args) == 2 and _is_small(node.args[1])))
    if isinstance(node, ast.Name):
        return node.id in _FUNCTIONS or bool(_SYMBOL.match(node.id))
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):  # Symbol('s0'), Float('0.5')
            return bool(_SYMBOL.match(node.value) or re.fullmatch(r"-?[\d.]{1,40}", node.value))
        return isinstance(node.value, (int, float)) and abs(node.value) < 2**63
    return isinstance(node, _ARITHMETIC)


_ARITHMETIC = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.operator, ast.unaryop, ast.cmpop, ast.Load,
               ast.keyword)  # fmt: skip


def _is_small(node: ast.expr) -> bool:
    if isinstance(node, ast.Call) and len(node.args) == 1:  # Integer(2)
        node = node.args[0]
    if isinstance(node, ast.UnaryOp):
        node = node.operand
    return isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and abs(node.value) <= 8


def _is_guard(text: str) -> bool:
    """A comparison of input sizes, as torch writes it down."""
    tree = _parsed(text)
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.Name):
            if node.id not in _GUARD_NAMES:
                return False
        elif isinstance(node, ast.Attribute):
            if node.attr not in _GUARD_ATTRIBUTES:
                return False
        elif isinstance(node, ast.BinOp):
            if isinstance(node.op, (ast.Pow, ast.LShift)) and not _is_small(node.right):
                return False
        elif not isinstance(node, (*_ARITHMETIC, ast.BoolOp, ast.boolop, ast.Call, ast.Subscript, ast.Constant)):
            return False
    return tree is not None


def _parsed(text: str) -> ast.Expression | None:
    try:
        return ast.parse(text, mode="eval") if len(text) <= _LONGEST else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _is_calling_convention(text: str) -> bool:
    """A nest of containers. What they hold beside their parts is data, not names of modules to import."""
    content = json.loads(text)
    return isinstance(content, list) and len(content) == 2 and _is_spec(content[1])


def _is_spec(spec: Any) -> bool:
    kind, context = spec["type"], spec["context"]
    if not (kind is None or isinstance(kind, str)) or not all(map(_is_spec, spec["children_spec"])):
        return False
    if kind == "collections.defaultdict":
        data = json.loads(context) if isinstance(context, str) else context
        if data["default_factory_module"] != "builtins" or data["default_factory_name"] not in _FACTORIES:
            return False
    # Other kinds come from libraries that registered them here; torch finds no more than those.
    return not isinstance(context, str) or '"__enum__"' not in context


_RULES: dict[str, Callable[[str], bool]] = {
    **dict.fromkeys(("name", "as_name", "fqn", "forward_arg_names", "parameter_name", "buffer_name",
                     "tensor_constant_name", "user_input_name", "field_names", "class_fqn"), _is_name),
    **dict.fromkeys(("target", "as_operator"), _is_operator),
    "expr_str": _is_expression,
    "guards_code": _is_guard,
    **dict.fromkeys(("in_spec", "out_spec"), _is_calling_convention),
}  # fmt: skip
