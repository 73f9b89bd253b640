"""The settings shown are those that differ from their defaults."""

from distft.config import Config
from distft.config.compose import compose
from distft.config.freeze import frozen_text, parse_config
from distft.report.settings import settings_of


def test_typed_settings_are_shown_with_their_defaults(tmp_path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a"}\n')
    config: Config = compose([f"data.train={rows}", "optimizer.lr=3e-4", "train.epochs=1", "strategy=fsdp", "seed=7"])
    found = {each.key: (each.value, each.default) for each in settings_of(parse_config(frozen_text(config)))}
    assert found.pop("optimizer.lr") == (3e-4, 2e-05)
    assert found.pop("seed") == (7, 0)
    assert found.pop("data.train")[0] == str(rows)
    assert not {"train.epochs", "name", "cache_dir", "strategy.layout"} & found.keys(), "as their words set them"


def test_an_unknown_word_shows_what_was_typed() -> None:
    text = "# optimizer=gone\n# said: optimizer.lr\noptimizer: {_target_: torch.optim.SGD, lr: 0.5}\n"
    assert [(each.key, each.value, each.default) for each in settings_of(parse_config(text))] == [
        ("optimizer.lr", 0.5, None)
    ]
