"""Versions of packages, also if a checkout is only on PYTHONPATH."""

import importlib.metadata
from collections.abc import Iterator

import pytest

import distft
from distft.compat.reach import version_of


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Versions are looked up once in a process."""
    version_of.cache_clear()
    yield
    version_of.cache_clear()


def test_a_checkout_without_metadata_knows_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_metadata(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", no_metadata)
    assert version_of("distft") == distft.__version__
    assert version_of("torch") is None


def test_a_package_that_is_missing_has_no_version() -> None:
    assert version_of("no-such-package") is None
    assert version_of("hydra-core") == importlib.metadata.version("hydra-core")
