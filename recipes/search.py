"""Teach every block of a trained model each candidate for a short while, and score what each costs the output.

Reads from top to bottom: the candidates, one step of all of them, the scores.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prismify.checkpoint import Trust
from prismify.checkpoint.atomic import whole_file
from prismify.checkpoint.manifest import read_json, write_json
from prismify.errors import PlanError, RecipeError
from prismify.facts import parameter_count
from prismify.generators import mixed
from prismify.graph import capture_all
from prismify.page import HTML_NAME
from prismify.plan import Policy
from prismify.scanning import scan_captured
from prismify.search import Entry, Library, ladder_of
from prismify.search.asking import Asking, Inputs, asking_of
from prismify.search.curves import curves_of, random_choices
from prismify.search.drawing import draw_curves, draw_sensitivity
from prismify.search.ladder import KEPT
from prismify.search.outcome import SCORES, TABLE, WEIGHTS, Outcome, write_outcome
from prismify.search.scoring import Scores, score, spearman, spread_of
from prismify.search.telling import write_page
from prismify.search.widths import WIDTHS, Spread, WidthsOutcome, write_widths
from prismify.training.blockwise import moments_of, variances_of
from prismify.training.data import Stream, first_batches, open_data
from prismify.training.engine import Part, Run, Watch, introduce, open_run
from prismify.training.models import NO_TRUST, open_model
from prismify.training.rates import adam
from prismify.training.recipe import asked_of
from prismify.training.schema import ModelSource, SearchRecipe

#: What was scored when a search was stopped.
_SCORING = "scoring.json"
#: Of every width as few channels as can be: what the curves of widths are drawn for.
NARROWEST = Policy(name="narrow", width=1, min_width=1)


def train(recipe: SearchRecipe, watch: Watch, *, restart: bool = False, trust: Trust = NO_TRUST) -> Path:
    """Carry out the recipe; returns the search's folder."""
    with open_run(recipe, watch, restart=restart, trust=trust) as run:
        images, held_out = open_data(recipe.data, recipe.train.seed)
        if held_out is None:
            raise RecipeError("data: no image is left to score candidates on: hold out some, data.validation")
        if run.shares.processes > 1:
            raise RecipeError("a search runs in one process: leave --processes out")
        model = open_model(recipe.model, run.trust).to(run.device).eval().requires_grad_(False)
        probe = images.first().to(run.device)
        asking = asking_of(model, recipe.noise, probe)
        run.say(f"images are seen at {probe.shape[3]}x{probe.shape[2]}: data.size")
        if recipe.widths:
            search_widths(run, recipe, model, asking, images, held_out, restart=restart)
            return run.folder
        plan, entries = ladder_of(model, recipe.policies)
        look = partial(run_on_first, run, asking, images)
        blocks = list(dict.fromkeys(entry.block for entry in entries))
        variances = variances_of(model, blocks, partial(look, recipe.train.batch_size))
        if silent := [block for block in blocks if block not in variances]:
            run.say(f"{len(silent)} blocks take no part in what images are made of, as {silent[0]}: they stay")
            entries = [entry for entry in entries if entry.block in variances]
        library = Library(model, plan, entries).to(run.device)
        optimizer = adam(library, recipe.train)
        parts: dict[str, Any] = {"library": library, "optimizer": optimizer}
        run.begin(images, parts, [optimizer])
        introduce(run, library, images.images, {})
        counted = f"the model has {parameter_count(model):,} parameters"
        run.say(f"{len(variances)} blocks, {len(library.entries)} candidates; {counted}")
        if run.step == 0:
            fitted = library.fit_to(model, partial(look, recipe.fitted), recipe.positions)
            run.say(f"{fitted} layers of candidates start nearest to the model's")

        for step, batch in run.parts_of_steps(images):
            take_step(run, batch, partial(learn, run, step, model, asking, library, variances), library, optimizer)
            run.save_if_due()

        measured = measure(run, model, asking, library, entries, variances, held_out)
        run.written.note(*(run.folder / name for name in (SCORES, WEIGHTS, TABLE, "sensitivity.png", HTML_NAME)))
        source, asked = words_of(recipe.model), asked_of(recipe)
        outcome = Outcome(run.folder, plan, tuple(entries), measured, source, asked)
        write_outcome(outcome, library, model)
        draw_sensitivity(outcome, run.folder / "sensitivity.png")
        write_page(outcome)
        run.say(f"summed scores rank random choices as their errors do: {measured.correlation:.3f}")
        run.say(f"and choices such as budgets lead to: {measured.likely_correlation:.3f}")
        run.say(f"done: {TABLE}, {HTML_NAME} and the library are in {run.folder}")
    return run.folder


def search_widths(
    run: Run,
    recipe: SearchRecipe,
    model: nn.Module,
    asking: Asking,
    images: Stream,
    held_out: Stream,
    *,
    restart: bool,
) -> None:
    """See what fewer channels of every width cost, in one look at the model; nothing learns."""
    if (run.folder / "state").is_dir() and not restart:
        raise RecipeError(
            f"{run.folder} holds a search of blocks that is not finished: name another output, or --restart"
        )
    capture = capture_all(model)
    plan = scan_captured(model, capture, NARROWEST)
    if not plan.replaced:
        raise PlanError(f"{plan.model} has no width that could be narrower (prismify scan --policy narrow says why)")
    layers = [row.name for row in plan.replaced]
    moments = moments_of(model, layers, partial(run_on_first, run, asking, images, recipe.fitted), recipe.positions)
    shown = shown_to(run, asking, held_out)
    curves, orders = curves_of(model, plan, moments, asking.answer, shown)
    if unknown := [curve.name for curve in curves if len(curve.levels) == 1]:
        run.say(f"{len(unknown)} widths stay as they are, as {unknown[0]}: no gradient says what they are worth")
    counted = plan.parameters
    run.say(f"{len(curves)} widths; the model has {counted.before:,} parameters, as narrow as can be {counted.after:,}")
    random = random_choices(model, capture, plan, curves, orders, moments, asking, shown)
    with torch.no_grad():
        outputs = [asking.answer(*inputs) for inputs in shown]
    variance, reference = spread_of(outputs, shown, reconstructs=asking.reconstructs)
    correlation = spearman([s for s, _ in random], [e for _, e in random])
    spread = Spread(variance, reference, sum(len(o) for o in outputs), correlation, random)
    if restart:
        run.written.forget_run()
    run.written.note(*(run.folder / name for name in (WIDTHS, TABLE, "sensitivity.png", HTML_NAME)))
    outcome = WidthsOutcome(run.folder, plan, tuple(curves), spread, words_of(recipe.model), asked_of(recipe))
    write_widths(outcome)
    draw_curves(outcome, run.folder / "sensitivity.png")
    write_page(outcome)
    run.say(f"done: {TABLE} and {HTML_NAME} are in {run.folder}")


def words_of(source: ModelSource) -> str:
    """What `prismify convert` is given to open the same model, for a shell."""
    words = [source.source, *(["--model", source.architecture] if source.architecture else [])]
    for name, value in source.arguments.items():
        words += ["--arg", f"{name}={json.dumps(value)}"]
    return shlex.join(words)


def take_step(
    run: Run,
    batch: Iterable[Part],
    learn: Callable[[Part], dict[str, Tensor]],
    library: Library,
    optimizer: torch.optim.Optimizer,
) -> None:
    """One step of every candidate."""
    library.train()
    optimizer.zero_grad()
    sums: dict[str, Tensor] = {}
    for part in batch:
        for key, error in learn(part).items():
            sums[key] = sums.get(key, torch.zeros_like(error)) + error / run.shares.parts
    errors = torch.stack(list(sums.values()))
    values = run.checked({"blocks": errors.mean()})
    optimizer.step()
    rate = optimizer.param_groups[0]["lr"]
    run.finished(lambda: {**values, "median": float(errors.median()), "learning_rate": rate})


def learn(
    run: Run,
    step: int,
    model: nn.Module,
    asking: Asking,
    library: Library,
    variances: dict[str, list[float]],
    part: Part,
) -> dict[str, Tensor]:
    """Add the gradients of every candidate on one part of a batch; returns their errors."""
    inputs = asking.inputs(part.images, mixed(run.seed, 5, step, part.index))
    with run.processes.autocast():
        return library.learn(model, variances, lambda: asking.answer(*inputs), run.processes.backward)


def measure(
    run: Run,
    model: nn.Module,
    asking: Asking,
    library: Library,
    entries: Sequence[Entry],
    variances: dict[str, list[float]],
    held_out: Stream,
) -> Scores:
    """Score every entry on the held-out images."""
    shown = shown_to(run, asking, held_out)
    library.eval()
    errors: dict[str, list[float]] = {}
    for inputs in shown:
        with torch.no_grad():
            found = library.learn(model, variances, partial(asking.answer, *inputs), lambda error: None)
        for key, error in found.items():
            errors.setdefault(key, []).append(float(error))
    own = {key: sum(values) / len(values) for key, values in errors.items()}

    began = {"step": run.step, "images": held_out.images.fingerprint(), "asked": asked_of(run.recipe)}
    known = scored_before(run, began)

    def tell(done: int, of: int) -> None:
        run.record.count("scored", done, of, run.step)
        if done % max(1, of // 10) == 0:
            keep(run, began, known)

    candidates = sum(entry.candidate != KEPT for entry in entries)
    run.say(f"scoring {candidates} candidates on {sum(len(one[0]) for one in shown)} images")
    try:
        scores = score(
            model, library, entries, shown, asking.answer, own, tell, reconstructs=asking.reconstructs, known=known
        )
    except KeyboardInterrupt:
        keep(run, began, known)
        raise
    (run.folder / _SCORING).unlink(missing_ok=True)
    return scores


def scored_before(run: Run, began: dict[str, Any]) -> dict[str, float]:
    """What an earlier start of the same scoring had measured."""
    path = run.folder / _SCORING
    run.written.note(path)
    kept = read_json(path) if path.is_file() else {}
    # A number that was none is null in JSON: that candidate is measured again.
    return {k: v for k, v in kept["errors"].items() if v is not None} if kept.get("began") == began else {}


def keep(run: Run, began: dict[str, Any], known: dict[str, float]) -> None:
    """Keep what was measured by now."""
    with whole_file(run.folder / _SCORING) as draft:
        write_json(draft, {"began": began, "errors": known})


def shown_to(run: Run, asking: Asking, held_out: Stream) -> list[Inputs]:
    """What the model is given of the held-out images."""
    whole = enumerate(held_out.in_order(run.shares.size))
    return [asking.inputs(batch.to(run.device), mixed(run.seed, 6, number)) for number, batch in whole]


def run_on_first(run: Run, asking: Asking, images: Stream, count: int) -> None:
    """Run the model on the first images of the run."""
    for number, some in enumerate(first_batches(images, count, run.shares.size)):
        asking.answer(*asking.inputs(some.to(run.device), mixed(run.seed, 7, number)))
