#!/usr/bin/env bash
# launch/qwen3_8b_zero3.sh ROWS.jsonl: Qwen3 8B with DeepSpeed ZeRO-3 on one node with 8 accelerators of 80 GiB.
set -euo pipefail
python -m distft.launch experiment=one_node_8gpu model=qwen3_8b strategy=zero3 data.train="$1" \
    name=qwen3-8b-zero3 "${@:2}"
