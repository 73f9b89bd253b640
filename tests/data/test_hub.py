from pathlib import Path

import huggingface_hub
import pytest

from distft.data.hub import NotFetched, dataset_commit, fetch, is_hub_id, local_folder

COMMIT = "0123456789" * 4


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own Hugging Face cache, with one model fetched by another program, and no way to the hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "huggingface"))
    model = tmp_path / "huggingface" / "models--someone--model"
    snapshot = model / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (snapshot / name).write_text("{}")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    return snapshot


def test_an_existing_path_is_not_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone" / "model").mkdir(parents=True)
    assert not is_hub_id("someone/model")
    assert is_hub_id("someone/other")
    assert is_hub_id("gpt2")
    assert not any(map(is_hub_id, ("/a/b", "./a", "../a", "~/a", "a/b/c", "données/x y")))


def test_a_model_in_the_hub_cache_is_found_offline_and_pinned(tmp_path: Path, hub_cache: Path):
    with pytest.raises(NotFetched):
        local_folder("someone/model", None, tmp_path)
    assert fetch("someone/model", None, tmp_path) == hub_cache
    (hub_cache.parents[1] / "refs" / "main").write_text("f" * 40)  # the hub moves on, the pin does not
    assert local_folder("someone/model", None, tmp_path) == hub_cache
    assert fetch("someone/model", None, tmp_path) == hub_cache


def test_a_fetched_tokenizer_does_not_count_as_a_model(tmp_path: Path, hub_cache: Path):
    fetch("someone/model", None, tmp_path, weights=False)
    assert local_folder("someone/model", None, tmp_path, weights=False) == hub_cache
    with pytest.raises(NotFetched):
        local_folder("someone/model", None, tmp_path)
    fetch("someone/model", None, tmp_path)
    assert local_folder("someone/model", None, tmp_path) == hub_cache


@pytest.mark.usefixtures("hub_cache")
def test_offline_an_unknown_model_is_refused_with_what_to_do(tmp_path: Path):
    with pytest.raises(RuntimeError, match="someone/other.*cannot be fetched.*path of a local folder"):
        fetch("someone/other", None, tmp_path)


def test_a_model_without_safetensors_is_refused(tmp_path: Path, hub_cache: Path):
    (hub_cache / "model.safetensors").rename(hub_cache / "pytorch_model.bin")
    with pytest.raises(RuntimeError, match="no safetensors file"):
        fetch("someone/model", None, tmp_path)


@pytest.mark.usefixtures("hub_cache")
def test_a_dataset_is_known_by_its_commit(tmp_path: Path):
    assert dataset_commit("someone/rows", COMMIT, tmp_path) == COMMIT
    with pytest.raises(NotFetched):
        dataset_commit("someone/rows", None, tmp_path)
    with pytest.raises(RuntimeError, match="cannot be fetched"):
        dataset_commit("someone/rows", None, tmp_path, ask=True)
