"""The format of a checkpoint: named fp32 tensors in chunks, whatever strategy and world wrote them.

    checkpoints/
        index.json                    steps that may be there: written before a checkpoint appears
        latest -> step-00000020       best -> step-00000010
        step-00000020/
            manifest.json             files with sizes and hashes of their blocks, shapes, step, versions, config
            rank-00000.safetensors    this rank's chunks

A chunk is called `<slot>|<parameter>|<where>`. `slot` is `parameter`, or an optimizer state such as `exp_avg`, which
has its own shape: `step` has none. `where` is the first element of a flat range, or the offsets of a box, `0,64`.
Only trained parameters are saved. Nothing here is a pickle, and nothing in this file loads torch.
"""

from pathlib import Path

FORMAT = 3
MANIFEST = "manifest.json"
PARAMETER = "parameter"


def step_dir(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"step-{step:08d}"


def rank_file(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"
