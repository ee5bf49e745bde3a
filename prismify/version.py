"""The version, where whatever writes it down finds it without importing what stands above."""

__version__ = "0.1.0"
