"""A package, so that `tests.zoo` is found before other projects that install one of this name."""
