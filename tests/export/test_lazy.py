"""What an export does not need is not imported."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_exports_of_whole_models_do_not_wait_for_peft() -> None:
    """It imports bitsandbytes where that is installed, and that a compiler: 5 s."""
    program = "import sys, distft.export.write; print(sorted({'peft', 'bitsandbytes'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]"]
