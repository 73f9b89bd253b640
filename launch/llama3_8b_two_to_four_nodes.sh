#!/usr/bin/env bash
# launch/llama3_8b_two_to_four_nodes.sh ROWS.jsonl: Llama 3.1 8B on 2 to 4 nodes under SLURM, as many as are available.
# The global batch stays 128 rows. With train.micro_batch_size=2 they are not divisible by 3 nodes, so 2 would be used.
set -euo pipefail
python -m distft.launch experiment=four_nodes_8b launcher.nodes=2-4 data.train="$1" \
    name=llama3-8b-two-to-four-nodes "${@:2}"
