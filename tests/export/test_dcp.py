"""A plain torch program loads the folder: its weights, moments and settings are the checkpoint's, bit for bit."""

import weakref
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from distft.checkpoint.load import Checkpoint
from distft.export.dcp import write_dcp
from distft.optim.groups import decay_groups
from tests.support.reference import dense
from tests.support.train_cases import ADAMW, tiny_model
from tests.support.trained import MAIN, TIED, Key, checkpoint_of

pytestmark = pytest.mark.slow


def exported(key: Key, trained: Any, folder: Path) -> Checkpoint:
    checkpoint, model = Checkpoint(checkpoint_of(trained[key])), tiny_model(key[1])
    optimizer = torch.optim.AdamW(decay_groups([(p, p.ndim) for p in model.parameters()]), **ADAMW)
    write_dcp(checkpoint, model, optimizer, folder)
    return checkpoint


@pytest.mark.parametrize("key", [("fsdp", MAIN, 2, 2), ("zero2", TIED, 2, 2)], ids=lambda key: key[1])
@pytest.mark.parametrize("groups", ["one group", "the run's groups"])
def test_a_plain_program_continues_from_the_dcp_export(key: Key, groups: str, trained: Any, tmp_path: Path) -> None:
    checkpoint = exported(key, trained, tmp_path / "out")
    model = dense(key[1], seed=7)
    parameters: Any = (
        model.parameters() if groups == "one group" else decay_groups([(p, p.ndim) for p in model.parameters()])
    )
    optimizer = torch.optim.AdamW(parameters, lr=0.5)
    model_state, optimizer_state = get_state_dict(model, optimizer)
    state = {"model": model_state, "optim": optimizer_state}
    dcp.load(state, checkpoint_id=tmp_path / "out", no_dist=True)
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optim"])
    for name, parameter in model.named_parameters():
        live = {"parameter": parameter.detach(), **optimizer.state[parameter]}
        assert set(live) == checkpoint.slots | {"parameter"}
        for slot, value in live.items():
            shape = checkpoint.shapes[slot, name]
            expected = checkpoint.read(name, shape, 0, prod(shape), slot).view(shape)
            assert torch.equal(value, expected), f"{slot} of {name}"
    assert [group["lr"] for group in optimizer.param_groups] == [ADAMW["lr"]] * len(optimizer.param_groups)
    assert optimizer.param_groups[-1]["weight_decay"] == (ADAMW["weight_decay"] if groups == "one group" else 0.0)


def test_one_tensor_is_in_memory_at_a_time(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[Any] = []
    most = 0
    read = Checkpoint.read

    def watched(*arguments: Any) -> torch.Tensor:
        nonlocal most
        alive.append(weakref.ref(found := read(*arguments)))
        most = max(most, sum(ref() is not None for ref in alive))
        return found

    monkeypatch.setattr(Checkpoint, "read", watched)
    exported(("fsdp", MAIN, 2, 2), trained, tmp_path / "out")
    assert len(alive) > 60 and most <= 2
