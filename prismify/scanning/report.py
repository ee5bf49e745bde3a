"""What a scan or a conversion amounts to, as plain data and as Markdown. The terminal's tables are in `cli`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, get_args

from ..layers import Operator, OperatorType
from ..plan import Decision, Plan, Totals
from ..plan.narrowing import NARROW, narrow_text

SCHEMA_VERSION = 1
#: What each rule means for the layers it holds for together.
RULES = {
    "replaced": "replaced",
    "by_hand": "layers whose decision was made by hand",
    "searched": "layers that a search kept",
    "input_output": "input and output layers, which turn data into features and back",
    "width_changes": "inner convolutions whose width changes; policy volumes replaces them",
    "linear": "linear layers outside attention; policy volumes with feed-forward replaces the inner ones",
    "conditioning": "layers that do not descend from the data (time, class, text)",
    "attention_width": "attention projections that are not C->C; policy volumes, or --context, replaces them",
    "fused_attention": "fused attention projections whose channels cannot be told apart",
    "unsupported": "layers no operator takes the place of",
    "narrow": "layers that are too narrow",
    "narrow_volumes": "layers whose volumes would be too narrow",
    "volumes": "layers whose widths do not split into the wanted volumes",
    "no_gain": "layers that would not shrink",
    "width": "layers all of whose channels stay",
    "excluded": "layers excluded by a pattern",
    "not_included": "layers that match no include pattern",
    "tied": "layers whose weight is tied to a kept one",
    "within": "output projections of packed attentions that are kept",
    "unreached": "layers that the captured methods never call",
    "by_chance": "layers that the model runs or leaves out at random, and left out when it was looked at",
    "dead": "layers whose result reaches no output",
    "own_policy": "layers that your policy keeps",
    "unknown": "layers whose role is not known, because no captured method shows them",
    "untraced": "layers whose role is not known, because no tensor leads from the inputs over them to a result",
}


def build_report(
    plan: Plan, label: str, origin: dict[str, Any] | None = None, latency: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The report of one model as plain data: totals with what they exclude, groups, and every layer.

    Args:
        label: what the person named.
        origin: where the model came from.
        latency: what `prismify.bench.latency` measured; the report has the key only then.
    """
    in_layers = sum(d.parameters_before for d in plan.layers)
    return {
        "schema_version": SCHEMA_VERSION,
        "source": label,
        "origin": origin or {},
        "model": plan.model,
        "policy": plan.policy,
        "parameters": {**_totals(plan.parameters), "excluded": _excluded(plan)},
        "macs": {**_totals(plan.macs), "inputs": describe_inputs(plan)},
        "size_bytes": _totals(plan.size_bytes),
        "replaced": {
            "layers": len(plan.replaced),
            "parameters_before": sum(d.parameters_before for d in plan.replaced),
            "parameters_after": sum(d.parameters_after for d in plan.replaced),
        },
        "kept": kept_groups(plan),
        "other_parameters": plan.parameters.before - in_layers,
        "attention": list(plan.attention),
        "capture": list(plan.capture),
        "notes": list(plan.notes),
        "layers": [dataclasses.asdict(d) for d in plan.layers],
        **({"latency": latency} if latency is not None else {}),
    }


def join_reports(reports: dict[str, dict[str, Any]], label: str, untouched: Sequence[str]) -> dict[str, Any]:
    """The report of a pipeline: its parts' totals added up, the parts beneath."""

    def total(key: str) -> dict[str, Any]:
        before, after = (sum(r[key][when] for r in reports.values()) for when in ("before", "after"))
        return _totals(Totals(before, after))

    excluded = [{"what": f"{name}: {e['what']}", "numbers": e["numbers"]} for name, r in reports.items()
                for e in r["parameters"]["excluded"]]  # fmt: skip
    excluded += [{"what": f"{name}: copied untouched", "numbers": None} for name in untouched]
    return {
        "schema_version": SCHEMA_VERSION,
        "source": label,
        "parameters": {**total("parameters"), "excluded": excluded},
        "macs": {**total("macs"), "inputs": "; ".join(f"{n}: {r['macs']['inputs']}" for n, r in reports.items())},
        "size_bytes": total("size_bytes"),
        "parts": reports,
    }


def kept_groups(plan: Plan) -> list[dict[str, Any]]:
    """The kept layers by rule, the heaviest first: what keeps the ratio where it is."""
    groups: dict[str, list[Decision]] = {}
    for row in plan.layers:
        if row.decision == "keep":
            groups.setdefault(row.rule, []).append(row)
    rows = [
        {
            "rule": rule,
            "meaning": RULES.get(rule, rule),
            "layers": len(members),
            "parameters": sum(d.parameters_before for d in members),
            "share_of_result": sum(d.parameters_before for d in members) / max(1, plan.parameters.after),
        }
        for rule, members in groups.items()
    ]
    return sorted(rows, key=lambda r: -int(str(r["parameters"])))


def describe_inputs(plan: Plan) -> str:
    """The example inputs of the passes that the multiply-adds count, in words."""
    whole = [row for row in plan.capture if row["method"] == "forward"] or list(plan.capture)
    return "; ".join(f"{row['method']}: {inputs_text(row)}" for row in whole)


def inputs_text(row: dict[str, Any]) -> str:
    """The inputs of one captured entry point: "sample 1×4×64×64, timestep 1"."""
    shapes = [f"{i['name']} {'×'.join(map(str, i['shape'])) or 'scalar'}" for i in row["inputs"]]
    return ", ".join(shapes) or "no inputs found"


def human(number: float) -> str:
    """A count to three figures: 859.5M, 29.6K, 27.

    Example:
        >>> human(859_520_964), human(29_559), human(27)
        ('860M', '29.6K', '27')
    """
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.3g}{unit}" if number < 999.5 * size else f"{number / size:.0f}{unit}"
    return f"{number:g}"


def human_bytes(number: float) -> str:
    """Bytes to three figures in powers of 1024: 3.2 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1000 or unit == "GiB":
            return f"{number:.3g} {unit}"
        number /= 1024
    raise AssertionError


def ratio_text(ratio: float | None) -> str:
    """ "2.01×", "438×"."""
    if ratio is None:
        return "-"
    return f"{ratio:.0f}×" if ratio >= 100 else f"{ratio:.1f}×" if ratio >= 10 else f"{ratio:.2f}×"


def operator_text(row: dict[str, Any]) -> str:
    """What takes a layer's place: "DeepPrism 3×3×3, 1→2 volumes"."""
    operator = row["operator"]
    if operator is None:
        return ""
    if operator["type"] not in get_args(OperatorType):
        options = operator.get("options", {})
        if operator["type"] == NARROW:
            left = narrow_text(Operator(**operator), row["in_channels"], row["out_channels"])
            return f"{left.partition('→')[2]} channels" if row["kind"] == "norm" else left
        return " ".join([operator["type"], *(f"{name}={value}" for name, value in options.items())])
    kernel = "×".join(str(k) for k in (operator["channel_kernel_size"], *row["kernel_size"]))
    if operator["type"] == "Prism":
        kernel = str(operator["channel_kernel_size"])
    p, q = operator["volumes"]
    volumes = f", {p}→{q} volumes" if (p, q) != (1, 1) else ""
    volumes += f", every {d} channels" if (d := operator.get("channel_dilation", 1)) > 1 else ""
    return f"{operator['type']} {kernel}{volumes}" + (", no bias" if operator["bias"] == "none" else "")


def report_markdown(report: dict[str, Any]) -> str:
    """The report as a Markdown page."""
    if "parts" in report:
        pages = [f"# {report['source']}\n", _totals_table(report)]
        for name, part in report["parts"].items():
            pages.append(report_markdown(part).replace("# ", f"## {name}: ", 1))
        return "\n".join(pages)
    lines = [f"# {report['model']} ({report['source']})", "", _totals_table(report)]
    replaced = report["replaced"]
    lines += [
        f"Replaced: {replaced['layers']} layers, {replaced['parameters_before']:,} → "
        f"{replaced['parameters_after']:,} parameters. "
        f"Outside convolution, linear and attention layers: {report['other_parameters']:,}.",
        "",
    ]
    if report["kept"]:
        lines += ["| kept | layers | parameters | share of the result |", "|---|---:|---:|---:|"]
        lines += [
            f"| {g['meaning']} | {g['layers']} | {g['parameters']:,} | {g['share_of_result']:.1%} |"
            for g in report["kept"]
        ]
        lines.append("")
    if "latency" in report:
        lines += latency_lines(report["latency"])
    lines += [f"> {note}" for note in report["notes"]] + [""]
    lines += ["## How it was read", ""]
    for row in report["capture"]:
        lines.append(f"* `{row['method']}`: {row['technique']}, with {inputs_text(row)}")
        lines += [f"  * not by {reason}" for reason in row["failed"]]
    lines += ["", "## Layers", "", "| layer | kind | widths | role | becomes | parameters | why |"]
    lines.append("|---|---|---|---|---|---:|---|")
    for row in report["layers"]:
        becomes = operator_text(row) or "kept"
        after = f" → {row['parameters_after']:,}" if row["operator"] else ""
        lines.append(
            f"| `{row['name']}` | {row['kind']} | {row['in_channels']}→{row['out_channels']} | {row['role']} | "
            f"{becomes} | {row['parameters_before']:,}{after} | {row['reason']} |"
        )
    return "\n".join(lines) + "\n"


def slower(latency: dict[str, Any]) -> list[str]:
    """In plain words, each kind of pass and of layer that a conversion made slower."""
    lines = []
    for name in ("forward", "forward and backward"):
        faster = latency[name]["converted"]["times_original"]
        if faster < 1:
            lines.append(f"The converted model is slower here: a {name} pass takes {1 / faster:.2f} times as long.")
    for row in latency["layers"]:
        if row["faster"] < 1:
            names = row["names"][0] + (f" and {len(row['names']) - 1} more" if len(row["names"]) > 1 else "")
            lines.append(
                f"{names}: slower here, {row['before_ms']:.3g} → {row['after_ms']:.3g} ms "
                f"at {'×'.join(map(str, row['input_shape']))}; keep it with --exclude if time matters."
            )
    return lines


def latency_lines(latency: dict[str, Any]) -> list[str]:
    """The measured time of a pass before and after, as Markdown."""
    lines = ["| pass | before | after | faster | fused | faster |", "|---|---:|---:|---:|---:|---:|"]
    for name in ("forward", "forward and backward"):
        rows = latency[name]
        cells = [f"{rows['original']['median_ms']:.3g} ms"]
        for key in ("converted", "fused"):
            row = rows.get(key)
            cells += [f"{row['median_ms']:.3g} ms", ratio_text(row["times_original"])] if row else ["-", "-"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    where = f"{latency['device']}, {latency['threads']} threads, {latency['method']}: {latency['inputs']}"
    lines += ["", f"Measured on {where}.", "", "| layers | at | before | after | faster |", "|---|---|---:|---:|---:|"]
    for row in latency["layers"]:
        names = f"`{row['names'][0]}`" + (f" and {len(row['names']) - 1} more" if len(row["names"]) > 1 else "")
        times = f"{row['before_ms']:.3g} ms | {row['after_ms']:.3g} ms | {ratio_text(row['faster'])}"
        lines.append(f"| {names} | {'×'.join(map(str, row['input_shape']))} | {times} |")
    return [*lines, "", *(f"> {line}" for line in slower(latency)), ""]


def _totals_table(report: dict[str, Any]) -> str:
    rows = ["| | before | after | ratio |", "|---|---:|---:|---:|"]
    names = (("parameters", "parameters"), ("multiply-adds", "macs"), ("checkpoint bytes", "size_bytes"))
    for name, key in names:
        row = report[key]
        rows.append(f"| {name} | {row['before']:,} | {row['after']:,} | {ratio_text(row['ratio'])} |")
    excluded = "; ".join(excluded_text(e) for e in report["parameters"]["excluded"]) or "nothing"
    return "\n".join([*rows, "", f"Multiply-adds are those of one pass ({report['macs']['inputs']}).",
                      f"Not in the parameter counts: {excluded}.", ""])  # fmt: skip


def excluded_text(entry: dict[str, Any]) -> str:
    """One thing the parameter counts leave out, in words."""
    return entry["what"] if entry["numbers"] is None else f"{entry['what']} ({entry['numbers']:,} numbers)"


def _excluded(plan: Plan) -> list[dict[str, Any]]:
    return [{"what": "buffers", "numbers": plan.buffers}] if plan.buffers else []


def _totals(totals: Totals) -> dict[str, Any]:
    ratio = totals.ratio if totals.after else None
    return {"before": totals.before, "after": totals.after, "ratio": ratio}
