"""Learning-rate range test: trains a few steps with a rising rate, and suggests one (arXiv 1506.01186)."""
