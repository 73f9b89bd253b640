from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distft.config import ConfigError
from distft.data.stage import make_ready


def test_a_threshold_refuses_with_the_first_bad_rows_also_when_the_data_is_there(
    config: Callable[..., dict[str, Any]], write_rows: Callable[..., Path]
):
    train = write_rows([{"prompt": "a", "completion": "b"}] * 3 + [{"prompt": "a"}] * 9)
    for _ in range(2):
        with pytest.raises(ConfigError) as error:
            make_ready(config(train))
        lines = error.value.messages
        assert lines[0].startswith("data.max_bad_fraction=0.0: 9 of 12 rows of data.train are bad")
        assert lines[1:6] == [f"{train}:{line}: completion: is missing" for line in range(4, 9)]
        assert lines[6].startswith("and 4 more, all in ")
        assert len(Path(lines[6].removeprefix("and 4 more, all in ")).read_text().splitlines()) == 9
    assert make_ready(config(train, max_bad_fraction=0.75)).reused


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"tiny": False, "path": "someone/model"}, "someone/model .*cannot be fetched"),
        ({"tokenizer": "someone/tokenizer"}, "someone/tokenizer .*cannot be fetched"),
        ({"tiny": False, "path": "/nowhere/model"}, "model.path=/nowhere/model is neither a folder nor a hub id"),
    ],
)
def test_a_model_that_is_not_here_is_refused_with_what_to_do(
    config: Callable[..., dict[str, Any]], write_rows: Callable[..., Path], model: dict[str, Any], reason: str
):
    values = config(write_rows([{"text": "a"}]))
    values["model"] |= model
    with pytest.raises(ConfigError, match=reason):
        make_ready(values)
