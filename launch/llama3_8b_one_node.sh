#!/usr/bin/env bash
# launch/llama3_8b_one_node.sh ROWS.jsonl: full fine-tuning of Llama 3.1 8B on one node with 8 accelerators of 80 GiB.
set -euo pipefail
python -m distft.launch experiment=one_node_8gpu data.train="$1" name=llama3-8b-one-node "${@:2}"
