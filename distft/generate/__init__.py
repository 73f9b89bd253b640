"""Text generation: answers to prompts by any checkpoint, on any strategy, the same on one process as on several."""
