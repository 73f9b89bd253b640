"""Reports which compilers a live ZeRO engine has imported, and whether DeepSpeed repeats a warning of distft.

`python -m tests.strategies.compilers OUT`
"""

import json
import logging
import os
import sys
from pathlib import Path

from distft.runtime.process_group import process_group
from tests.support.train_cases import make_engine

COMPILERS = {"torch._inductor.compile_fx", "distutils.ccompiler", "setuptools"}


def main() -> None:
    with process_group() as world:
        make_engine({"strategy": "zero2", "model": "gpt2"}, world)
        found = {
            "loaded": sorted(COMPILERS & set(sys.modules)),
            "disabled": os.environ.get("TORCHDYNAMO_DISABLE"),
            "warns": logging.getLogger("DeepSpeed").isEnabledFor(logging.WARNING),
        }
        Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
