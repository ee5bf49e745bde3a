"""Recipes for retraining converted models. `configs` holds the files that a conversion hands off with."""
