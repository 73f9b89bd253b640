"""python examples/learning_rates.py ROWS.jsonl [KEY=VALUE ...]: a loop of one's own over learning rates.

`distft launch -m optimizer.lr=1e-5,1e-4,1e-3` is the whole grid as one command, with a page. A loop is for what no
grid can say: here a higher rate is tried as long as the last one lowered the held-out loss.
"""

import sys

import distft

rows, *overrides = sys.argv[1:]
best, lowest = None, float("inf")
for rate in (1e-5, 1e-4, 1e-3):
    config = distft.compose(
        *overrides,
        model="smollm2_135m",
        data={"train": rows, "eval": 0.2},
        optimizer={"lr": rate},
        export=False,
        name=f"rate-{rate:.0e}",
    )
    run = distft.fine_tune(config)
    loss = min(row["loss"] for row in run.metrics("eval"))
    print(f"learning rate {rate:.0e}: held-out loss {loss:.4f}")
    if loss >= lowest:
        break
    best, lowest = run, loss
print(f"the best is {best.path}" if best else "no loss was measured")
