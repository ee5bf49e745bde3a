"""Retraining: what the recipes are made of. Nothing here is imported by `import prismify`."""
