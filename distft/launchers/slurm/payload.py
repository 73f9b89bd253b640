"""What submitit runs in the job: the batch script in the run folder, in this very process.

It is pickled by its name alone, and so is all that the one pickle of a run holds: this name and the folder's.
"""

import os
from pathlib import Path


def run_script(run_dir: str) -> None:
    """Becomes the run's batch script, whose output goes where it goes when the script is submitted by hand."""
    run = Path(run_dir)
    log = os.open(run / "logs" / "slurm.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    script = str(run / "train.sbatch")
    os.execvp("bash", ["bash", script, run_dir])
