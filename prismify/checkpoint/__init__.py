"""Every source format in; prismify's own folder format in and out."""

from .folder import load, load_pipeline, save
from .manifest import read_manifest
from .origin import Pipeline, Source
from .original import build_original
from .pipeline import pipeline_report, save_pipeline
from .references import Trust
from .source import open_source

__all__ = [
    "Pipeline",
    "Source",
    "Trust",
    "build_original",
    "load",
    "load_pipeline",
    "open_source",
    "pipeline_report",
    "read_manifest",
    "save",
    "save_pipeline",
]
