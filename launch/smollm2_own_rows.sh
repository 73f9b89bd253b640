#!/usr/bin/env bash
# launch/smollm2_own_rows.sh ROWS.jsonl: fine-tunes a small model on your rows on any machine.
set -euo pipefail
python -m distft.launch model=smollm2_135m data.train="$1" name=own-rows \
    train.epochs=3 train.global_batch_size=16 eval.every_steps=20 "${@:2}"
