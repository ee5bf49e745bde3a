"""The choice is the best there is, and an impossible budget says what the least would be."""

from __future__ import annotations

import ctypes
import itertools
from random import Random

import pytest

from prismify.errors import PlanError
from prismify.search.choosing import Budget, Option, choose


def some_options(draw: Random, blocks: int, most: int) -> list[Option]:
    """Candidates of several sizes and errors between a millionth and one."""
    return [
        Option(f"b{b}", draw.randrange(1, 10**6), draw.randrange(1, 10**9), draw.random(), 10 ** draw.uniform(-6, 0))
        for b in range(blocks)
        for _ in range(draw.randint(1, most))
    ]


def sums(options: list[Option], chosen: tuple[int, ...] | list[int]) -> dict[str, float]:
    names = ("parameters", "macs", "milliseconds", "error")
    return {name: sum(getattr(options[n], name) for n in chosen) for name in names}


def every_choice(options: list[Option]) -> list[tuple[int, ...]]:
    of_blocks: dict[str, list[int]] = {}
    for n, option in enumerate(options):
        of_blocks.setdefault(option.block, []).append(n)
    return list(itertools.product(*of_blocks.values()))


@pytest.mark.parametrize("seed", range(12))
def test_no_other_choice_within_the_budgets_has_a_smaller_error(seed: int) -> None:
    draw = Random(seed)
    options = some_options(draw, blocks=5, most=4)
    choices = [(c, sums(options, c)) for c in every_choice(options)]
    measures = draw.sample(["parameters", "macs", "milliseconds"], draw.randint(1, 2))
    pivot = draw.choice(choices)[1]
    budget = Budget(**{name: pivot[name] for name in measures})
    allowed = [s for _, s in choices if all(s[name] <= pivot[name] for name in measures)]
    found = sums(options, choose(options, budget))
    assert found["error"] == pytest.approx(min(s["error"] for s in allowed), rel=1e-6)
    assert all(found[name] <= pivot[name] * (1 + 1e-9) for name in measures)


@pytest.mark.parametrize("seed", range(6))
def test_with_a_bound_on_the_error_alone_the_fewest_parameters_are_found(seed: int) -> None:
    draw = Random(100 + seed)
    options = some_options(draw, blocks=5, most=4)
    choices = [sums(options, c) for c in every_choice(options)]
    bound = draw.choice(choices)["error"]
    found = sums(options, choose(options, Budget(error=bound)))
    assert found["parameters"] == min(s["parameters"] for s in choices if s["error"] <= bound)
    assert found["error"] <= bound * (1 + 1e-6)


def test_one_option_of_every_block_is_chosen() -> None:
    options = some_options(Random(1), blocks=40, most=8)
    chosen = choose(options, Budget(parameters=sum(o.parameters for o in options) / 10))
    assert [options[n].block for n in chosen] == [f"b{b}" for b in range(40)]


def test_an_impossible_budget_names_the_least() -> None:
    options = [Option("a", 10, 1, 1, 0.5), Option("a", 100, 1, 1, 0.0), Option("b", 30, 1, 1, 0.0)]
    with pytest.raises(PlanError, match=r"^no choice has at most 39 parameters: the least is 40$"):
        choose(options, Budget(parameters=39))
    assert choose(options, Budget(parameters=40)) == [0, 2]
    with pytest.raises(PlanError, match="no choice keeps these budgets together"):
        choose(options, Budget(parameters=40, error=0.1))


def test_the_solver_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    draw, options = Random(0), []
    for block in range(300):  # of such a size HiGHS leaves lines of its own
        whole = 9 * draw.choice([64, 128, 256, 320]) ** 2
        errors = [0.0, *(draw.lognormvariate(c - 6, 1) * 1e-3 for c in range(1, 8))]
        options += [Option(f"b{block}", whole // 4**c + c, 1, 1, error) for c, error in enumerate(errors)]
    assert len(choose(options, Budget(error=0.05))) == 300
    ctypes.CDLL(None).fflush(None)  # a library in C keeps its lines back
    assert capfd.readouterr().out == ""
