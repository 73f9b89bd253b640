"""distft fine-tunes language models on one machine or a cluster, and proves what it claims."""

__version__ = "0.1.0.dev0"
