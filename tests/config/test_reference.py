"""docs/config.md is generated from the schema."""

from pathlib import Path

from distft.config.reference import refreshed
from distft.config.rules import RULES
from distft.config.schema import KEYS


def test_the_config_page_is_up_to_date(checkout: Path):
    """Refresh with: python -m distft.config.reference docs/config.md"""
    page = (checkout / "docs" / "config.md").read_text()
    assert refreshed(page) == page
    assert all(f"`{key.path}`" in page for key in KEYS)
    assert all(rule.refused in page for rule in RULES)
