"""python examples/compare_with_base.py RUN: what fine-tuning changed, in numbers with intervals and in answers."""

import sys

import distft

run = distft.open_run(sys.argv[1])
found = run.evaluate(against="base")
for name, change in found["against"].items():
    print(f"{name}: {change['theirs']:.4f} -> {found['metrics'][name]['value']:.4f}", end=", ")
    print(f"difference {change['difference']:+.4f} [{change['low']:+.4f}, {change['high']:+.4f}], {change['verdict']}")

prompts = ["What is 2 plus 3?", "Name a color."]
answers = {at: run.generate(prompts, at=at, max_new_tokens=16) for at in ("base", "latest")}
for before, after in zip(answers["base"], answers["latest"], strict=True):
    print(f"{before['prompt']} {before['completion']!r} -> {after['completion']!r}")
