"""python examples/fine_tune.py ROWS.jsonl [KEY=VALUE ...]: fine-tunes a small model, and asks the result."""

import sys

import distft

rows, *overrides = sys.argv[1:]
config = distft.compose(
    *overrides,
    model="smollm2_135m",
    data={"train": rows, "eval": 0.2},
    optimizer={"lr": 1e-4},
)
run = distft.fine_tune(config)

before, *_, after = run.metrics("eval")
print(f"held-out loss {before['loss']:.3f} -> {after['loss']:.3f} nats per token, {run.state}")
print(f"the model is in {run.final}, the page in {run.report}")
for answer in run.generate(["What is 2 plus 3?"], max_new_tokens=16):
    print(answer["prompt"], answer["completion"])
