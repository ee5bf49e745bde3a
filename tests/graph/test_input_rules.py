"""The libraries' rules for example inputs name classes and arguments that exist."""

from __future__ import annotations

import importlib
import inspect

import pytest
from torch import nn

from prismify.families.inputs import MODELS, rules_by_class
from prismify.graph.inputs import Hints


@pytest.mark.parametrize("key", MODELS)
def test_classes_and_arguments_exist(key):
    library, name = key.split(".")
    forward = getattr(importlib.import_module(library), name).forward
    assert set(MODELS[key]) <= set(inspect.signature(forward).parameters)


def test_rules_hold_for_subclasses_and_for_nobody_elses_class_of_that_name():
    from diffusers import PriorTransformer

    class Mine(PriorTransformer):
        pass

    made = Mine(num_attention_heads=1, attention_head_dim=8, num_layers=1, embedding_dim=8, num_embeddings=3)
    rules = rules_by_class(made)
    assert rules["hidden_states"](Hints(made)).shape == (1, 8)
    assert rules["encoder_hidden_states"](Hints(made)).shape == (1, 3, 8)
    assert rules_by_class(type("PriorTransformer", (nn.Module,), {})()) == {}
