"""JSON: the share of answers that are JSON, and that a JSON schema accepts."""

import json
import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from distft.evaluate.scores import Counts
from distft.evaluate.statistics import Value, mean
from distft.paths import absolute

_FENCED = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n?```\s*\Z", re.DOTALL)


class Score:
    metrics: Mapping[str, Value] = {"json_valid": mean, "json_schema": mean}
    binary = frozenset({"json_valid", "json_schema"})
    normalization = "a fence of three backticks around the answer is removed"

    def __init__(self, file: str = "") -> None:
        """file: of the schema."""
        if find_spec("jsonschema") is None:
            raise ImportError("jsonschema is not installed. Try: pip install 'distft[eval]'")
        from jsonschema import SchemaError
        from jsonschema.validators import validator_for

        if not file:
            raise ValueError("needs a schema. Try: json_schema.file=schema.json")
        try:
            schema: Any = json.loads(absolute(file).read_text())
            kind = validator_for(schema)
            kind.check_schema(schema)
        except (OSError, ValueError, SchemaError) as error:
            raise ValueError(f"json_schema.file={file}: {str(error).splitlines()[0]}") from error
        self.validator = kind(schema)

    def __call__(self, answer: str, expected: str) -> Mapping[str, Counts]:
        fenced = _FENCED.match(answer)
        try:
            value = json.loads(fenced.group(1) if fenced else answer, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return {"json_valid": (0.0, 1.0), "json_schema": (0.0, 1.0)}
        return {"json_valid": (1.0, 1.0), "json_schema": (float(self.validator.is_valid(value)), 1.0)}


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
