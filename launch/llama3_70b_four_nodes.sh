#!/usr/bin/env bash
# launch/llama3_70b_four_nodes.sh ROWS.jsonl: Llama 3.1 70B on 4 nodes with 8 accelerators of 80 GiB, under SLURM.
set -euo pipefail
python -m distft.launch experiment=four_nodes data.train="$1" name=llama3-70b-four-nodes "${@:2}"
