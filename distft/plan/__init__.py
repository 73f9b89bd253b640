"""The plan of a run: its steps and memory, from config, data and file headers, without torch or transformers."""

from distft.plan.make import make_plan

__all__ = ["make_plan"]
