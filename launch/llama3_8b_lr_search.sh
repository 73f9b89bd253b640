#!/usr/bin/env bash
# launch/llama3_8b_lr_search.sh ROWS.jsonl: Optuna search of learning rate and batch size, Llama 3.1 8B, 4 nodes.
set -euo pipefail
python -m distft.launch -m sweep=optuna sweep.trials=20 experiment=one_node_8gpu launcher=slurm launcher.jobs_at_once=4 \
    data.train="$1" data.eval=0.05 name=llama3-8b-lr-search \
    'optimizer.lr=tag(log,interval(1e-6,1e-4))' train.global_batch_size=32,64,128 "${@:2}"
