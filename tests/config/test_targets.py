"""Signatures are read from source without importing the module."""

import inspect
import subprocess
import sys

import pytest

from distft.config.targets import NotFound, build, names_beside, signature


@pytest.mark.parametrize("name", ["AdamW", "SGD", "RAdam", "NAdam", "RMSprop", "Adam", "Adamax"])
def test_signatures_read_from_source_match_inspect(name: str):
    import torch

    found = signature(f"torch.optim.{name}")
    assert found is not None
    live = inspect.signature(getattr(torch.optim, name).__init__).parameters.values()
    assert [p.name for p in found.parameters] == [p.name for p in live][1:]
    assert [p.required for p in found.parameters] == [p.default is p.empty for p in live][1:]


def test_strategies_show_their_types_and_choices():
    found = signature("distft.strategies.fsdp.FullySharded")
    assert found is not None
    layout, shard_size = found.get("layout"), found.get("shard_size")
    assert layout is not None and shard_size is not None
    assert layout.required and set(layout.choices) == {"ddp", "fsdp", "hsdp"}
    assert set(shard_size.types) == {int, type(None)} and not shard_size.required


def test_star_imports_are_followed():
    found = signature("torch.nn.Linear")
    assert found is not None and found.get("in_features") is not None


@pytest.mark.slow
def test_nothing_heavy_is_imported():
    program = (
        "import sys; from distft.config.targets import signature; signature('torch.optim.AdamW');"
        "signature('distft.strategies.zero.Zero'); print({'torch', 'deepspeed'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("target", "missing"),
    [
        ("torch.optim.AdanW", "torch.optim has no AdanW"),
        ("torch.optin.AdamW", "no module torch.optin"),
        ("nowhere_at_all.Thing", "nowhere_at_all is not installed"),
        ("distft.strategies.zero.Zerro", "has no Zerro"),
    ],
)
def test_missing_targets_are_named(target: str, missing: str):
    with pytest.raises(NotFound, match=missing):
        signature(target)


def test_compiled_or_dynamic_targets_are_not_guessed(tmp_path, monkeypatch):
    package = tmp_path / "mylab_dynamic"
    package.mkdir()
    (package / "__init__.py").write_text("make = type('Made', (), {})\ndef open_(first, **more): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert signature("mylab_dynamic.make") is None
    found = signature("mylab_dynamic.open_")
    assert found is not None and found.open


def test_a_dataclass_has_its_fields_and_a_subclass_its_base(tmp_path, monkeypatch):
    (tmp_path / "mylab_classes.py").write_text(
        "from dataclasses import dataclass, field\n"
        "@dataclass(frozen=True)\nclass A:\n    x: int\n    y: float = 1.0\n    z: int = field(init=False)\n"
        "class B:\n    def __init__(self, rate: float, kind: 'str | None' = None): ...\nclass C(B):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    a, c = signature("mylab_classes.A"), signature("mylab_classes.C")
    assert a is not None and [(p.name, p.required) for p in a.parameters] == [("x", True), ("y", False)]
    assert c is not None and [p.name for p in c.parameters] == ["rate", "kind"]


def test_a_dataclass_has_the_fields_of_its_bases_too(tmp_path, monkeypatch):
    (tmp_path / "mylab_base.py").write_text(
        "from dataclasses import dataclass\n@dataclass\nclass Base:\n    x: int\n    y: float = 1.0\n"
    )
    (tmp_path / "mylab_heirs.py").write_text(
        "import json\nfrom dataclasses import dataclass\nfrom typing import Protocol\nfrom mylab_base import Base\n"
        "@dataclass\nclass Heir(Base):\n    y: float = 2.0\n    z: str = ''\n"
        "@dataclass\nclass Same(Base):\n    pass\n@dataclass\nclass Plain(Protocol):\n    x: int\n"
        "@dataclass\nclass Unknown(json.JSONEncoder):\n    x: int\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = {name: signature(f"mylab_heirs.{name}") for name in ("Heir", "Same", "Plain", "Unknown")}
    names = {name: each and [p.name for p in each.parameters] for name, each in found.items()}
    assert names == {"Heir": ["x", "y", "z"], "Same": ["x", "y"], "Plain": ["x"], "Unknown": None}


def test_a_constructor_may_take_its_keywords_as_a_dataclass(tmp_path, monkeypatch):
    (tmp_path / "mylab_config.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\nclass Config:\n    x: int\n    y: float = 1.0\n"
        "class Made:\n    def __init__(self, config: Config) -> None:\n        self.config = config\n"
        "class Plain:\n    def __init__(self, x: int, z: int = 3) -> None:\n        self.x, self.z = x, z\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = signature("mylab_config.Made")
    assert found is not None and [(p.name, p.required) for p in found.parameters] == [("x", True), ("y", False)]
    made = build("mylab_config.Made", {"x": 1, "restarts": 2}, optional=("restarts", "wait"))
    assert (made.config.x, made.config.y) == (1, 1.0)
    plain = build("mylab_config.Plain", {"x": 1, "z": 2, "restarts": 2}, optional=("z", "restarts"))
    assert (plain.x, plain.z) == (1, 2), "an optional key that it takes is passed"
    with pytest.raises(TypeError):
        build("mylab_config.Plain", {"x": 1, "restarts": 2})


def test_a_typo_in_a_target_gets_its_siblings_suggested():
    assert "torch.optim.AdamW" in names_beside("torch.optim.AdanW")
