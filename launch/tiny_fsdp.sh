#!/usr/bin/env bash
# A complete run in seconds on any machine: a random two-layer model on two processes.
set -euo pipefail
printf '{"prompt": "%s", "completion": "%s"}\n' a b c d e f g h i j k l m n o p > "${TMPDIR:-/tmp}/distft-letters.jsonl"
python -m distft.launch model.tiny=true strategy=fsdp data.train="${TMPDIR:-/tmp}/distft-letters.jsonl" \
    data.eval=0.25 name=tiny-fsdp launcher.processes_per_node=2 train.global_batch_size=4 train.micro_batch_size=2 "$@"
