"""Fused kernels are put into the model that names them, or refused in words; the real ones need a device.

What Liger is asked for is held to a package of the same interface; the real one, 0.8.5, was put into five families by
hand (docs/dev/evidence.md).
"""

import sys
from pathlib import Path

import pytest

from distft.models.build import fused_layers, use_kernels
from tests.support.train_cases import tiny_model

LIKE_LIGER = """
from types import MethodType


def forward(self, hidden):
    return hidden


def _apply_liger_kernel_to_instance(model, **options):
    assert options == {"cross_entropy": False, "fused_linear_cross_entropy": False}, options
    if model.config.model_type == "llama":
        for layer in model.model.layers:
            layer.mlp.forward = MethodType(forward, layer.mlp)
"""


@pytest.fixture
def liger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "liger_kernel" / "transformers"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").write_text(LIKE_LIGER)
    for name in [name for name in sys.modules if name.startswith("liger_kernel")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)


def test_none_leaves_the_model_as_it_is() -> None:
    model = tiny_model("llama3_8b")
    use_kernels(model, "none")
    assert fused_layers(model) == {}


def test_kernels_that_are_not_installed_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distft.compat.liger.find_spec", lambda _: None)
    with pytest.raises(ValueError, match="liger-kernel is not installed. Try: pip install liger-kernel"):
        use_kernels(tiny_model("llama3_8b"), "liger")


def test_layers_are_replaced_and_the_losses_left_out(liger: None) -> None:
    model = tiny_model("llama3_8b")
    names = [name for name, _ in model.named_parameters()]
    use_kernels(model, "liger")
    assert fused_layers(model) == {"LlamaMLP": model.config.num_hidden_layers}
    assert [name for name, _ in model.named_parameters()] == names


def test_a_model_that_has_none_is_refused(liger: None) -> None:
    with pytest.raises(ValueError, match="Liger has no kernels for GPT2LMHeadModel. Try: model.kernels=none"):
        use_kernels(tiny_model("gpt2"), "liger")
