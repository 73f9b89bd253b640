"""Reports what becomes of stage 1 in bf16 where DeepSpeed chooses its class.

`python -m tests.strategies.other_class OUT`
"""

import json
import sys
from contextlib import nullcontext
from pathlib import Path

from distft.runtime.process_group import process_group
from distft.strategies import zero
from tests.support.train_cases import make_engine


def main() -> None:
    zero.one_class_for_stages_1_and_2 = nullcontext
    with process_group() as world:
        try:
            make_engine({"strategy": "zero1", "model": "gpt2", "precision": "bfloat16"}, world)
            said = None
        except RuntimeError as error:
            said = str(error)
        Path(sys.argv[1]).write_text(json.dumps(said))


if __name__ == "__main__":
    main()
