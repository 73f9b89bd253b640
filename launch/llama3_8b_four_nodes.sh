#!/usr/bin/env bash
# launch/llama3_8b_four_nodes.sh ROWS.jsonl: Llama 3.1 8B on 4 nodes with 8 accelerators each, under SLURM.
set -euo pipefail
python -m distft.launch experiment=four_nodes_8b data.train="$1" name=llama3-8b-four-nodes "${@:2}"
