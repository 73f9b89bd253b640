"""data.prompt_template: a Jinja template over a row's columns that gives its prompt or text.

It runs in jinja2's sandbox: rows and templates may come from strangers. A column that the template reads counts as
read; the others go on to the format. A template of a row that has a completion (or a chosen answer) gives its prompt,
else its text.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jinja2
from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from distft.data.example import BadField, RawJson

FOR_TEXT = ("text", "classification", "regression")
ROW = "row"  # the whole row, for columns whose names are not identifiers: {{ row['a b'] }}


@dataclass(frozen=True)
class PromptTemplate:
    """A template's text. renamed: data.fields. form: data.format."""

    text: str
    renamed: Mapping[str, str]
    form: str = "auto"

    def __post_init__(self) -> None:
        """Raises ValueError for a template that is not Jinja."""
        self._columns()

    def __call__(self, row: RawJson) -> RawJson:
        """Returns the row with its prompt or text in place of the columns that the template reads.

        Raises BadField for a column that is missing or null.
        """
        columns = self._columns()
        missing = [name for name in columns if name != ROW and row.get(name) is None]
        if missing:
            raise BadField(missing[0], "is missing or null, and data.prompt_template reads it")
        try:
            made = _environment().from_string(self.text).render({**row, ROW: row})
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError) as error:
            raise BadField("data.prompt_template", f"fails on this row: {error}") from None
        field = self._field(row)
        kept = {name: value for name, value in row.items() if name not in columns and not self._is_read(name)}
        if kept.get(field) is not None:
            raise BadField(field, "is a column that data.prompt_template does not read, and the name of what it gives")
        return kept | {field: made}

    def _field(self, row: RawJson) -> str:
        answers = [self.renamed.get(name, name) for name in ("completion", "chosen")]
        is_text = self.form in FOR_TEXT or (self.form == "auto" and all(row.get(name) is None for name in answers))
        name = "text" if is_text else "prompt"
        return self.renamed.get(name, name)

    def _columns(self) -> set[str]:
        try:
            return set(meta.find_undeclared_variables(_environment().parse(self.text)))
        except jinja2.TemplateError as error:
            raise ValueError(f"data.prompt_template={self.text!r} is not a Jinja template: {error}") from None

    def _is_read(self, name: str) -> bool:
        return f"{ROW}['{name}']" in self.text or f'{ROW}["{name}"]' in self.text


def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
