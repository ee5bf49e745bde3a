"""The options that subcommands share, and how their text becomes values."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import torch

    from ..plan import Policy
    from ..plan.policy import OwnPolicy

SOURCE_HELP = (
    "A diffusers model or pipeline folder; a weights file (.safetensors, .pt, .pth, .ckpt, .bin; with --model); "
    "an exported program (.pt2); "
    "a repository on a hub, owner/name[@revision]; "
    "or a model reference: diffusers:Class, timm:name, torchvision:name, prismify:Name, package.module:factory, "
    "file.py:factory."
)
_ARCHITECTURE, _POLICY, _CAPTURE, _OUTPUT = "The model", "What is replaced", "How it is read", "Output"

SourceArgument = Annotated[str, typer.Argument(metavar="SOURCE", help=SOURCE_HELP, show_default=False)]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="REF", help="Architecture of a weights file.", rich_help_panel=_ARCHITECTURE),
]
ArgOption = Annotated[
    list[str] | None,
    typer.Option(
        "--arg",
        metavar="KEY=VALUE",
        help="Argument of the model's factory; VALUE is JSON. May be repeated.",
        rich_help_panel=_ARCHITECTURE,
    ),
]
AllowOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="CLASS",
        help="Let a pickled file make package.Class. May be repeated.",
        rich_help_panel=_ARCHITECTURE,
    ),
]
TrustOption = Annotated[
    bool,
    typer.Option("--trust-pickle", help="Let a pickled file run any code it brings.", rich_help_panel=_ARCHITECTURE),
]
TrustCodeOption = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        help="Run the Python code that a folder, a file or a recipe names.",
        rich_help_panel=_ARCHITECTURE,
    ),
]
ImportOption = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        metavar="FILE.py",
        help="Import your own file or package.module first: it may register operators. May be repeated.",
        rich_help_panel=_ARCHITECTURE,
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="PATH",
        help="Architecture of a weights file: a diffusers model's folder or config.json. "
        "Names of original releases (CompVis, Stability) are understood.",
        rich_help_panel=_ARCHITECTURE,
    ),
]
PrefixOption = Annotated[
    str | None,
    typer.Option(
        "--prefix",
        metavar="NAME.",
        help="Where the model lies in a larger checkpoint, as first_stage_model.; found by itself where one fits.",
        rich_help_panel=_ARCHITECTURE,
    ),
]
EmaOption = Annotated[
    bool, typer.Option("--ema", help="Take the averaged (EMA) weights.", rich_help_panel=_ARCHITECTURE)
]
VariantOption = Annotated[
    str | None,
    typer.Option(
        "--variant", metavar="NAME", help="Of a folder's weights, such as fp16.", rich_help_panel=_ARCHITECTURE
    ),
]
PolicyOption = Annotated[
    str,
    typer.Option(
        help="paper: inner C->C convolutions and attention projections. volumes: also inner C->C' convolutions. "
        "narrow: the same layers with fewer channels between them. file.py:function: your own.",
        rich_help_panel=_POLICY,
    ),
]
TopologyOption = Annotated[
    str,
    typer.Option(help="Padding of the channel axis: zero, replicate or circular.", rich_help_panel=_POLICY),
]
DepthOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Channels of a volume (policy volumes); by default the greatest common divisor of the widths.",
        rich_help_panel=_POLICY,
    ),
]
FeedForwardOption = Annotated[
    bool,
    typer.Option("--feed-forward", help="Also inner linear layers (policy volumes).", rich_help_panel=_POLICY),
]
ShareOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[PATTERN=]S",
        help="Share of the channels that is left (policy narrow), 0.5 by default; with PATTERN that of the widths "
        "whose first maker is so named. May be repeated.",
        rich_help_panel=_POLICY,
    ),
]
WidthOption = Annotated[
    int | None,
    typer.Option(metavar="C", help="Channels that are left instead (policy narrow).", rich_help_panel=_POLICY),
]
MultipleOption = Annotated[
    int,
    typer.Option(
        metavar="C", help="Round the channels that are left to a multiple (policy narrow).", rich_help_panel=_POLICY
    ),
]
ContextOption = Annotated[
    bool,
    typer.Option(
        "--context",
        help="Also projections of a cross-attention's context that are not C->C (policy volumes).",
        rich_help_panel=_POLICY,
    ),
]
ChannelKernelOption = Annotated[
    int, typer.Option(metavar="K", help="Kernel size along the channels; odd.", rich_help_panel=_POLICY)
]
OperatorOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What takes the place of convolutions and linear layers instead: Tucker, LowRank, Grouped, Separable, "
        "Gained, Sum, or one that --import registers.",
        rich_help_panel=_POLICY,
    ),
]
OperatorOptionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="KEY=VALUE",
        help="Option of --operator, such as rank=8; VALUE is JSON. May be repeated.",
        rich_help_panel=_POLICY,
    ),
]
ChannelDilationOption = Annotated[
    bool,
    typer.Option(
        "--channel-dilation",
        help="Let the operators read every channel, every second, every fourth, ... in turn.",
        rich_help_panel=_POLICY,
    ),
]
BiasOption = Annotated[
    str,
    typer.Option(
        help="Where a layer has a bias: scalar (one number) or channel (one a channel).", rich_help_panel=_POLICY
    ),
]
IncludeOption = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Replace only layers whose name matches.", rich_help_panel=_POLICY),
]
ExcludeOption = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Keep layers whose name matches, as 'decoder.*'.", rich_help_panel=_POLICY),
]
MinWidthOption = Annotated[
    int, typer.Option(metavar="C", help="Keep layers narrower than this.", rich_help_panel=_POLICY)
]
MinVolumeOption = Annotated[
    int,
    typer.Option(metavar="C", help="Keep layers with volumes narrower than this.", rich_help_panel=_POLICY),
]
InputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="[NAME=]SHAPE|FILE.pt",
        help="Example input: a shape such as 1,3,256,256 (1,77:int for zeros, 1,77:ones for a mask), or a file with "
        "tensors; NAME=SHAPE gives one argument by name, NAME:=JSON one that is no tensor; the rest is guessed. "
        "Without names, one shape is the data, and several are the arguments in order.",
        rich_help_panel=_CAPTURE,
    ),
]
MethodOption = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        metavar="NAME",
        help="Entry points to capture; by default forward, encode and decode.",
        rich_help_panel=_CAPTURE,
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the report as JSON, and nothing else.", rich_help_panel=_OUTPUT)
]
AllLayersOption = Annotated[
    bool, typer.Option("--all", help="One row for each layer, without folding repeats.", rich_help_panel=_OUTPUT)
]


@dataclass(frozen=True)
class Wanted:
    """What a person asked `scan` or `convert` for. `policy` waits: making one imports torch."""

    source: str
    model: str | None
    arguments: dict[str, Any]
    allow: tuple[str, ...]
    trust_pickle: bool
    trust_code: bool
    inputs: tuple[str, ...]
    methods: tuple[str, ...]
    policy: Callable[[], Policy | OwnPolicy]
    config: Path | None = None
    prefix: str | None = None
    ema: bool = False
    variant: str | None = None


#: Options of a policy, by the names that a `Policy` has for them.
_POLICY_FIELDS = {
    "policy": "name", "topology": "topology", "channel_kernel": "channel_kernel_size", "bias": "bias", "depth": "depth",
    "feed_forward": "feed_forward", "context": "context", "min_width": "min_width", "min_volume": "min_volume",
    "include": "include", "exclude": "exclude", "operator": "operator", "option": "options",
    "channel_dilation": "channel_dilation", "share": "share", "width": "width",
    "multiple": "multiple",
}  # fmt: skip


#: The parameters of commands that say what is replaced.
POLICY_OPTIONS = tuple(_POLICY_FIELDS)


def wanted(given: Mapping[str, Any]) -> Wanted:
    """What a command was given, as its function's parameters by name; modules that it names are imported first."""
    import_all(given["import_"])
    policy = {name: given[option] for option, name in _POLICY_FIELDS.items() if option in given}
    policy["options"] = parse_arguments(policy.get("options"), "--option")
    policy["share"], policy["shares"] = parse_shares(policy.get("share"))
    return Wanted(
        source=given["source"],
        model=given["model"],
        arguments=parse_arguments(given["arg"]),
        allow=tuple(given["allow"] or ()),
        trust_pickle=given["trust_pickle"],
        trust_code=given["trust_code"],
        inputs=tuple(given["input"] or ()),
        methods=tuple(given["method"] or ()),
        policy=policy_of(**policy),
        **{name: given[name] for name in ("config", "prefix", "ema", "variant") if name in given},
    )


def parse_arguments(pairs: list[str] | None, flag: str = "--arg") -> dict[str, Any]:
    """Arguments from the KEY=VALUE pairs of a flag; a value that is plainly a word need not be quoted.

    Raises:
        BadParameter: a pair has no `=`, or its value is broken JSON.
    """
    arguments = {}
    for pair in pairs or ():
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier():
            raise typer.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint=flag)
        try:
            arguments[key] = json.loads(text)
        except json.JSONDecodeError as error:
            if text[:1] in '[{"' or text in ("True", "False", "None"):
                raise typer.BadParameter(f"the value of {key} is not JSON: {text}", param_hint=flag) from error
            arguments[key] = text
    return arguments


def parse_shares(texts: list[str] | None) -> tuple[float | None, dict[str, float]]:
    """The share of every width, and those by pattern, from the values of --share.

    Raises:
        BadParameter: one is no number, or there are two without a pattern.
    """
    share, shares = None, {}
    for text in texts or ():
        pattern, equals, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError as error:
            raise typer.BadParameter(f"{text!r} is not [PATTERN=]NUMBER", param_hint="--share") from error
        if equals:
            shares[pattern] = value
        elif share is not None:
            raise typer.BadParameter(f"{share:g} and {value:g}: only one goes without PATTERN=", param_hint="--share")
        else:
            share = value
    return share, shares


def import_all(places: list[str] | None) -> None:
    """Import what a person named by --import."""
    if places:
        from ..checkpoint.imports import import_own

        for place in places:
            import_own(place)


def policy_of(**fields: Any) -> Callable[[], Policy | OwnPolicy]:
    """What makes the policy of the options' values, or finds a person's own; it raises PlanError where one is wrong."""

    def make() -> Policy | OwnPolicy:
        from ..checkpoint.references.reference import own_function
        from ..errors import PlanError
        from ..plan import Policy

        name = str(fields["name"])
        if ":" in name:
            plain = Policy()
            for option, value in fields.items():
                if option != "name" and (value or None) != (getattr(plain, option) or None):
                    flag = {"options": "option", "shares": "share"}.get(option, option.removesuffix("_size"))
                    flag = flag.replace("_", "-")
                    raise PlanError(f"--{flag} belongs to prismify's own policies: {name} decides about every layer")
            return own_function(name, "policy")
        values: dict[str, Any] = {k: tuple(v or ()) if k in ("include", "exclude") else v for k, v in fields.items()}
        return Policy(**values)

    return make


def element_type(name: str) -> torch.dtype:
    """What --dtype names.

    Raises:
        typer.BadParameter: nothing that maps have.
    """
    import torch

    known = ("float32", "bfloat16", "float16", "float64")
    if name not in known:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(known)}", param_hint="--dtype")
    made: torch.dtype = getattr(torch, name)
    return made
