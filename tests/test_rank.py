"""What a rank does is a function of distft or of what the user trusts, and no other code."""

import pytest

from distft.rank import TRAIN, find_work


def test_work_is_distfts_own_or_of_a_trusted_prefix():
    assert find_work(TRAIN, []).__module__ == "distft.worker"
    assert find_work("json.dumps", ["json"]).__module__ == "json"
    for name, trust in (("os.abort", []), ("json.dumps", ["js"]), ("distfty.x", [])):
        with pytest.raises(ValueError, match=f"work={name}: code is run from distft.* only. Nearest: work={TRAIN}"):
            find_work(name, trust)
