"""Trained models that come with prismify: one folder each, as `prismify.save` writes them."""
