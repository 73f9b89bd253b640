#!/usr/bin/env bash
# A real 135M model on two CPU processes; `python -m distft.demo --fetch-only` downloads model and rows.
set -euo pipefail
python -m distft.launch experiment=laptop_demo name=laptop-demo "$@"
