#!/usr/bin/env bash
# launch/lr_sweep.sh ROWS.jsonl: a small model, three learning rates, three seeds, one run at a time.
# Under SLURM, as one job array: launch/lr_sweep.sh ROWS.jsonl launcher=slurm launcher.jobs_at_once=4
set -euo pipefail
python -m distft.launch -m model=smollm2_135m data.train="$1" data.eval=0.1 name=lr-sweep \
    optimizer.lr=1e-5,3e-5,1e-4 seed=0,1,2 train.epochs=3 train.global_batch_size=16 eval.every_steps=20 "${@:2}"
