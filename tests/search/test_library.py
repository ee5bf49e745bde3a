"""Candidates: what they are, that they learn apart, and that a plan puts the very same ones in place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prismify
from prismify import Policy
from prismify.errors import PlanError
from prismify.search import Library, ladder_of, read_outcome, score, scoring, write_plan
from prismify.search.ladder import KEPT, Entry
from prismify.search.outcome import Outcome, put_weights, write_outcome
from prismify.search.replaying import Replay
from prismify.search.scoring import spearman
from prismify.training.blockwise import variances_of
from tests.search.conftest import CANDIDATES, Net


@pytest.fixture
def library(net: Net) -> tuple[Any, list[Entry], Library]:
    plan, entries = ladder_of(net, CANDIDATES)
    torch.manual_seed(1)
    return plan, entries, Library(net, plan, entries)


def test_a_ladder_lists_every_block_with_what_each_candidate_costs(net: Net) -> None:
    plan, entries = ladder_of(net, {**CANDIDATES, "again": CANDIDATES["27 weights"]})
    blocks = list(dict.fromkeys(entry.block for entry in entries))
    assert blocks == ["blocks.0", "blocks.0.inner", "blocks.1", "blocks.1.inner", "alone"]  # none of those that share
    assert plan.replaced == []
    assert plan.parameters.after == plan.parameters.before == sum(p.numel() for p in net.parameters())
    for name, policy in CANDIDATES.items():
        rows = {d.name: d for d in prismify.scan(net, policy=policy).layers}
        for entry in (e for e in entries if e.candidate == name):
            assert entry.parameters == sum(rows[r.name].parameters_after for r in entry.rows)
            assert entry.macs == sum(rows[r.name].macs_after for r in entry.rows)
    assert "again" not in {entry.candidate for entry in entries}
    sizes = [e.parameters for e in entries if e.block == "alone"]
    assert sizes[0] == 16 * 16 * 9 + 16
    assert max(sizes) == sizes[0]


def test_a_model_without_blocks_is_refused(net: Net) -> None:
    with pytest.raises(PlanError, match=r"^Linear has nothing to search: none of 27 weights.* replaces any layer"):
        ladder_of(nn.Linear(3, 3), CANDIDATES)
    with pytest.raises(PlanError, match="Net has nothing to search"):
        ladder_of(net, {"wide": Policy(min_width=64)})


def test_candidates_learn_and_the_model_does_not(net: Net, library: tuple[Any, list[Entry], Library]) -> None:
    _, entries, pupils = library
    x = torch.randn(4, 3, 16, 16)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    fitted = pupils.fit_to(net, lambda: net(x), 400)
    assert fitted == len(pupils.entries)  # each replaces one layer of its block
    variances = variances_of(net, [e.block for e in entries], lambda: net(x))
    optimizer = torch.optim.Adam(pupils.parameters(), 3e-3)
    errors = []
    for _ in range(12):
        optimizer.zero_grad()
        errors.append(pupils.learn(net, variances, lambda: net(x), lambda error: error.backward()))
        optimizer.step()
    better = [float(errors[-1][key]) < float(errors[0][key]) for key in pupils.entries]
    assert all(better)
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    # A block within a block has candidates of its own: the outer ones leave it as it is.
    outer = next(key for key, e in pupils.entries.items() if e.block == "blocks.0")
    assert torch.equal(pupils.pupils[outer].inner.conv.weight, net.blocks[0].inner.conv.weight)
    assert not any(name.startswith("blocks.0.inner.") for name in pupils.weights_of(outer))
    assert "blocks.0.norm.weight" in pupils.weights_of(outer)


def test_scores_are_errors_of_the_output_with_one_block_replaced(
    net: Net, library: tuple[Any, list[Entry], Library]
) -> None:
    _, entries, pupils = library
    pupils.eval()
    images = [torch.randn(2, 3, 8, 8), torch.randn(1, 3, 8, 8)]
    inputs = [(x,) for x in images]
    found = score(net, pupils, entries, inputs, net, {}, lambda done, of: None, reconstructs=True)
    wanted = [net(x) for x in images]
    number = next(n for n, e in enumerate(entries) if e.block == "blocks.1" and e.candidate == "27 weights")
    own = prismify.convert(net, policy=Policy(name="volumes", min_volume=4, include=("blocks.1.first",)))
    own.requires_grad_(False).blocks[1].load_state_dict(pupils.pupils[str(number)].state_dict())
    squares = sum(float((own(x) - w).double().square().sum()) for x, w in zip(images, wanted, strict=True))
    assert found.error[number] == pytest.approx(squares / sum(w.numel() for w in wanted), rel=1e-5)
    assert [found.error[n] for n, e in enumerate(entries) if e.candidate == KEPT] == [0.0] * 5
    assert found.variance == pytest.approx(float(torch.cat([w.flatten() for w in wanted]).var(correction=0)), rel=1e-5)
    errors = [(net(x) - x).square().flatten() for x in images]
    assert found.reference == pytest.approx(float(torch.cat(errors).mean()), rel=1e-5)
    assert found.images == 3
    assert len(found.random) == len(found.likely) == 20
    assert found.likely_correlation > 0.8
    assert found.likely[-1][1] < 0.5 * found.likely[0][1]  # from the least to nearly everything
    assert all(ms > 0 for ms in found.milliseconds)
    with torch.no_grad():
        torch.testing.assert_close(net(images[0]), wanted[0])  # everything is back in its place
    assert spearman([1, 2, 3], [10, 20, 15]) == pytest.approx(0.5)


@pytest.mark.parametrize("ratio", [1.5, 3.0, 4.2])
def test_a_plan_puts_the_same_candidates_in_place(
    ratio: float, net: Net, library: tuple[Any, list[Entry], Library], tmp_path: Path
) -> None:
    plan, entries, pupils = library
    pupils.eval()
    x = torch.randn(2, 3, 8, 8)
    scores = score(net, pupils, entries, [(x,)], net, {}, lambda done, of: None, reconstructs=True)
    written = Outcome(tmp_path, plan, tuple(entries), scores, "the net")
    write_outcome(written, pupils, net)
    outcome = read_outcome(tmp_path)
    assert (outcome.entries, outcome.scores) == (written.entries, written.scores)
    assert outcome.plan.to_dict() == plan.to_dict()
    chosen = outcome.within(prismify.search.Budget(parameters=plan.parameters.before / ratio))
    made = write_plan(outcome, chosen, tmp_path / "plans" / "small.json", f"ratio {ratio}")
    assert made.parameters.after == outcome.expected(chosen)["parameters"] <= plan.parameters.before / ratio
    read = prismify.Plan.load(tmp_path / "plans" / "small.json")
    small = prismify.convert(net, read)
    assert sum(p.numel() for p in small.parameters()) == made.parameters.after
    other = prismify.convert(type(net)(), read)
    with pytest.raises(PlanError, match=r"small.safetensors was learned beside other weights: \S+ of this model"):
        put_weights(other, tmp_path / "plans" / "small.json")
    assert put_weights(small, tmp_path / "plans" / "small.json") > 0
    keys = [str(n) for n in chosen if entries[n].candidate != KEPT]
    with pupils.in_place(net, keys):
        torch.testing.assert_close(small(x), net(x))
    for key in keys:
        block = small.get_submodule(pupils.entries[key].block)
        assert type(block).__name__ in ("Block", "Inner", "DeepPrism", "LowRank")
        for name, value in pupils.weights_of(key).items():
            assert torch.equal(small.state_dict()[name], value), name
    assert any("taught block by block" in note for note in small.prismify_plan.notes)


def test_weights_of_another_plan_are_refused(net: Net, tmp_path: Path) -> None:
    from prismify.checkpoint.formats import write_safetensors

    plan = dataclasses.replace(prismify.scan(net, policy="volumes"), policy={"name": "search"})
    small = prismify.convert(net, plan)
    write_safetensors({"blocks.0.first.weight": torch.zeros(3)}, tmp_path / "plan.safetensors")
    with pytest.raises(PlanError, match=r"plan.safetensors: blocks.0.first.weight is no tensor of the plan's model"):
        put_weights(small, tmp_path / "plan.json")
    assert put_weights(small, tmp_path / "other.json") == 0
    by_policy = prismify.convert(net, policy="volumes")  # what lies beside its plan has nothing to do with it
    assert put_weights(by_policy, tmp_path / "plan.json") == 0


def test_budgets_of_the_whole_model(net: Net, library: tuple[Any, list[Entry], Library], tmp_path: Path) -> None:
    plan, entries, pupils = library
    x = torch.randn(2, 3, 8, 8)
    scores = score(net, pupils, entries, [(x,)], net, {}, lambda done, of: None, reconstructs=True)
    outcome = Outcome(tmp_path, plan, tuple(entries), scores, "the net")
    write_outcome(outcome, pupils, net)
    budget: Callable[..., Any] = prismify.search.Budget
    with pytest.raises(PlanError, match=r"at most 100 parameters: the least is [\d,]+$"):
        outcome.within(budget(parameters=100))
    with pytest.raises(PlanError, match="with ratio 1 every block stays as it is"):
        write_plan(outcome, outcome.within(budget(parameters=plan.parameters.before)), tmp_path / "p.json", "ratio 1")
    half = outcome.within(budget(macs=plan.macs.before / 2))
    assert outcome.expected(half)["macs"] <= plan.macs.before / 2
    bound = outcome.drop(0.5)
    smallest = outcome.within(budget(error=bound))
    assert outcome.expected(smallest)["drop_db"] <= 0.5 + 1e-6
    assert F.mse_loss(net(x), x).item() * (10**0.05 - 1) == pytest.approx(bound, rel=1e-4)


def test_blocks_before_the_one_in_question_are_not_run_again() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, 1), nn.SiLU()) for _ in range(3))).requires_grad_(False)
    x, runs, blocks = torch.randn(2, 3, 4, 4), list[str](), ["0", "0.0", "1", "2.0"]
    replay = Replay(net, blocks)
    with replay.recorded():
        wanted = net(x)
    for name in ("0.0", "1.0", "2.0"):
        net.get_submodule(name).register_forward_hook(lambda *_, name=name: runs.append(name))
    for block, ran in [
        ("0", ["0.0", "1.0", "2.0"]),
        ("0.0", ["0.0", "1.0", "2.0"]),
        ("1", ["1.0", "2.0"]),
        ("2.0", ["2.0"]),
    ]:
        runs.clear()
        with replay.up_to(block):
            assert torch.equal(net(x), wanted)
        assert runs == ran
    runs.clear()
    assert torch.equal(net(x), wanted)
    assert len(runs) == 3


def test_blocks_that_run_twice_are_run_as_they_are() -> None:
    torch.manual_seed(0)
    shared, last = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
    net, x = nn.Sequential(shared, nn.ReLU(inplace=True), shared, last).requires_grad_(False), torch.randn(1, 3, 4, 4)
    replay = Replay(net, ["0", "3"])
    with replay.recorded():
        wanted = net(x)
    with replay.up_to("3"):
        assert torch.equal(net(x), wanted)
        assert not torch.equal(net(2 * x), wanted)


class Writing(nn.Module):
    """It writes to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.relu(x, inplace=True))


class Skipping(nn.Module):
    """What a block writes to is read once more."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 3, 1), Writing(), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(self.second(h)) + h


def test_blocks_that_write_to_their_input_are_run_as_they_are() -> None:
    torch.manual_seed(0)
    net, x = Skipping().requires_grad_(False), torch.randn(2, 3, 4, 4)
    replay = Replay(net, ["first", "second", "last"])
    with replay.recorded():
        wanted = net(x)
    with replay.up_to("last"):
        assert torch.equal(net(x), wanted)


def test_what_was_scored_before_is_not_scored_again(
    net: Net, library: tuple[Any, list[Entry], Library], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, entries, pupils = library
    # How often a block is called to be timed depends on how fast it is.
    monkeypatch.setattr(scoring, "_times", lambda *args: ([0.0] * len(entries), 0.0))
    inputs = [(torch.randn(2, 3, 8, 8),), (torch.randn(2, 3, 8, 8),)]
    asked: dict[str, float] = {}
    times: list[int] = []

    def answer(x: Tensor) -> Tensor:
        times.append(1)
        return net(x)

    def scored(known: dict[str, float]) -> list[float]:
        times.clear()
        args = (net, pupils.eval(), entries, inputs, answer, {}, lambda done, of: None)
        return score(*args, reconstructs=True, known=known).error

    whole = scored(asked)
    once = len(times)
    candidates = sum(entry.candidate != KEPT for entry in entries)
    assert len(asked) == 2 * candidates
    half = {key: value for key, value in asked.items() if key.startswith("0/")}
    assert scored(dict(half)) == whole
    assert len(times) == once - candidates
    assert scored({**half, f"0/{candidates}": asked[f"0/{candidates}"] + 1}) != whole


def test_a_candidate_that_breaks_down_is_scored_and_never_chosen(
    net: Net, library: tuple[Any, list[Entry], Library], tmp_path: Path
) -> None:
    plan, entries, pupils = library
    broken = next(n for n, e in enumerate(entries) if e.block == "alone" and e.candidate != KEPT)
    with torch.no_grad():
        next(pupils.pupils[str(broken)].parameters()).fill_(float("nan"))
    inputs = [(torch.randn(2, 3, 8, 8),)]
    scores = score(net, pupils.eval(), entries, inputs, net, {}, lambda done, of: None, reconstructs=True)
    assert scores.error[broken] == 1e30
    assert all(error < 1e6 for _, error in scores.random)
    outcome = Outcome(tmp_path, plan, tuple(entries), scores, "the net")
    write_outcome(outcome, pupils, net)
    assert read_outcome(tmp_path).scores == outcome.scores
    assert broken not in outcome.within(prismify.search.Budget(parameters=plan.parameters.before / 3))
