"""Names of other trainers lead to keys that are there."""

from distft.config.foreign import OURS
from distft.config.schema import BY_PATH


def test_every_name_leads_to_a_key():
    assert {ours for ours in OURS.values() if not ours.endswith("_target_") and ours not in BY_PATH} <= {
        "optimizer.betas"
    }
