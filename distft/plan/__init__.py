"""What a run will do and need, told from config, data and headers alone: neither torch nor transformers."""

from distft.plan.make import make_plan

__all__ = ["make_plan"]
