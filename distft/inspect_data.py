"""`distft inspect_data`: shows rows as they are trained, in the terminal, as HTML or as JSONL.

It reads the same shards as training. `as=openai` writes the rows of the sources in OpenAI's fine-tuning format instead,
`as=datatrove` the prepared rows as documents of datatrove.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from distft.config import Config, ConfigError, command, compose, help_text
from distft.data.document_files import write_documents
from distft.data.example import BadField
from distft.data.formats import form_of
from distft.data.formats.openai import row_of
from distft.data.key import has_eval_rows, tokenizer_dir
from distft.data.pairs import SIDES
from distft.data.pipeline import RowPipeline, make_pipeline
from distft.data.shards import Row, Rows
from distft.data.stage import ensure_prepared
from distft.data.tokenize import load_tokenizer
from distft.paths import absolute

OWN_KEYS = (
    ("n=5", "number of rows, from the first"),
    ("part=train", "train | eval"),
    ("out=", "FILE.html or FILE.jsonl to write instead of the terminal; a folder with as=datatrove"),
    (
        "as=tokens",
        "tokens | openai: the rows of the source as OpenAI's fine-tuning JSONL | datatrove: the prepared rows as its "
        "documents; n=0 for all",
    ),
)
KINDS = (".html", ".jsonl")
STYLE = (
    "body{font:15px/1.7 ui-monospace,monospace;max-width:60em;margin:2em auto;padding:0 1em}"
    "pre{white-space:pre-wrap;overflow-wrap:anywhere;border:1px solid #8884;padding:1em}"
    "span{border-left:1px solid #8886}.t{background:#2a85;font-weight:600}h2{font-size:1em}"
)


@dataclass(frozen=True)
class Shown:
    """A prepared row, and the place it was read at."""

    number: int
    row: Row
    source: str
    line: int


def main(arguments: list[str]) -> int:
    """Shows the first `n` rows of a part; in the terminal tokens are separated by │, trained spans between ⟦ and ⟧."""
    own, overrides = _own_keys(arguments)
    config = compose(overrides)
    if own["as"] == "openai":
        return write_openai(config, own["part"], int(own["n"]) or None, Path(own["out"]))
    prepared = ensure_prepared(config)
    if own["as"] == "datatrove":
        part: Literal["train", "eval"] = "eval" if own["part"] == "eval" else "train"
        written = write_documents(config, prepared.folder, part, int(own["n"]) or None, absolute(own["out"]))
        Console(soft_wrap=True).print(f"{own['out']}: {written.rows:,} documents in {len(written.paths)} files")
        return 0
    rows = Rows(prepared.folder, own["part"])
    tokenizer = load_tokenizer(tokenizer_dir(config), config.model.trust_remote_code)
    shown = list(located(config, own["part"], rows, min(int(own["n"]), len(rows))))
    if not own["out"]:
        show(shown, tokenizer, f"of {len(rows):,} ({own['part']})")
        return 0
    out = Path(own["out"])
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".html":
        out.write_text(page(shown, tokenizer, f"{len(rows):,} {own['part']} rows"))
    else:
        out.write_text("".join(json.dumps(line_of(each, tokenizer), ensure_ascii=False) + "\n" for each in shown))
    Console(soft_wrap=True).print(f"{out}: {len(shown)} of {len(rows):,} rows")
    return 0


def located(config: Config, part: str, rows: Rows, number: int) -> Iterator[Shown]:
    """Yields the first rows with the file and line of each, from the sources, which are read as far as it takes.

    A place is the first one of a row with these tokens.
    """
    pipeline, _ = make_pipeline(config)
    wanted = {(rows.ids[i], rows[i].input_ids.tobytes()) for i in range(number)}
    places: dict[tuple[str, bytes], tuple[str, int]] = {}
    for key, place in _places(pipeline, part if has_eval_rows(config.data) else "train"):
        if key in wanted:
            places.setdefault(key, place)
        if len(places) == len(wanted):
            break
    for i in range(number):
        source, line = places.get((rows.ids[i], rows[i].input_ids.tobytes()), ("", 0))
        yield Shown(i, rows[i], source, line)


def show(shown: list[Shown], tokenizer: Any, of: str) -> None:
    """Prints rows in colours."""
    console = Console(soft_wrap=True, highlight=False)
    for each in shown:
        head = f"row {each.number} {of}: {_counts(each.row)}, {each.source}:{each.line}"
        console.print(Text(head, style="bold"))
        for name, document in documents_of(each.row):
            console.print(*([Text(f"{name}:", style="italic")] if name else []), marked(document, tokenizer))


def documents_of(row: Row) -> list[tuple[str, Row]]:
    """Returns the documents of a row with their names: of a pair chosen and rejected; a row of tokens has none."""
    if row.borders is None:
        return [("", row)]
    if len(row.borders):
        return list(zip(SIDES, row.documents(), strict=True))
    return [("desirable" if row.labels is not None and row.labels[0] else "undesirable", row.documents()[0])]


def marked(row: Row, tokenizer: Any) -> Text:
    """Returns the text of a row with token boundaries and trained spans marked."""
    text, before = Text(), False
    for piece, trained in pieces(row, tokenizer):
        border = "│" if trained == before else "⟦" if trained else "⟧"
        text.append(border if text or trained else "", style="dim")
        text.append(piece, style="bold green" if trained else "")
        before = trained
    return text.append("⟧" if before else "", style="dim")


def pieces(row: Row, tokenizer: Any) -> list[tuple[str, bool]]:
    """Returns (text, trained) per token; tokens that encode parts of one character are merged."""
    found: list[tuple[str, bool]] = []
    pending: list[int] = []
    for token, trained in zip(row.input_ids.tolist(), row.trained.tolist(), strict=True):
        pending.append(token)
        text = tokenizer.decode(pending, clean_up_tokenization_spaces=False)
        if not text.endswith("\ufffd") or len(pending) == 4:
            found.append((text, trained))
            pending = []
    return found


def page(shown: list[Shown], tokenizer: Any, title: str) -> str:
    """Returns a self-contained HTML page: a span per token, trained ones marked."""
    parts = []
    for each in shown:
        place = escape(f"{each.source}:{each.line}")
        parts.append(f"<h2>row {each.number}: {_counts(each.row)}, {place}</h2>")
        for name, document in documents_of(each.row):
            spans = (
                f'<span class="t">{escape(text)}</span>' if trained else f"<span>{escape(text)}</span>"
                for text, trained in pieces(document, tokenizer)
            )
            parts.append(f"{f'<p>{name}</p>' if name else ''}<pre>{''.join(spans)}</pre>")
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    legend = '<p>Tokens in <span class="t">green</span> are trained; the others are read.</p>'
    return f"{head}<h1>{escape(title)}</h1>{legend}{''.join(parts)}</html>\n"


def line_of(shown: Shown, tokenizer: Any) -> dict[str, object]:
    """Returns a row as an object of the JSONL file; of a pair with the text of both sides, and where the second begins.

    weight: of each token; of a pair that of the row, at its trained tokens.
    """
    row = shown.row
    weights = row.trained.astype(float) if row.weights is None else row.weights
    if row.borders is not None:
        weights = row.trained * row.target_weight
    line = {
        "source": shown.source,
        "line": shown.line,
        "input_ids": row.input_ids.tolist(),
        "trained": row.trained.tolist(),
        "weight": [float(weight) for weight in weights],
        "text": tokenizer.decode(row.input_ids, clean_up_tokenization_spaces=False),
    }
    line |= {} if row.labels is None else {"labels": row.labels.tolist()}
    if row.borders is None:
        return line
    texts = {
        name: tokenizer.decode(document.input_ids, clean_up_tokenization_spaces=False)
        for name, document in documents_of(row)
    }
    return line | {"borders": row.borders.tolist(), **texts}


def write_openai(config: Config, part: str, number: int | None, out: Path) -> int:
    """Writes the conversations of the sources in OpenAI's format; refuses the first row that has no place in it."""
    pipeline, _ = make_pipeline(config)
    (opened,) = pipeline.open("eval" if part == "eval" and has_eval_rows(config.data) else "train")
    out.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with out.open("w") as file:
        for raw in (raw for block in opened.blocks for raw in block.rows()):
            if written == number:
                break
            if raw.value is None:
                raise ConfigError([f"{raw.file}:{raw.line}: {raw.reason}"])
            try:
                example, _ = form_of(opened.forms, raw.value).take(raw.value)
                row = row_of(example)
            except BadField as error:
                raise ConfigError([f"{raw.file}:{raw.line}: {error}"]) from None
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            written += 1
    Console(soft_wrap=True).print(f"{out}: {written} rows in OpenAI's format")
    return 0


def _places(pipeline: RowPipeline, part: str) -> Iterator[tuple[tuple[str, bytes], tuple[str, int]]]:
    (opened,) = pipeline.open("eval" if part == "eval" else "train")
    raw = (row for block in opened.blocks for row in block.rows())
    for made in pipeline.rows(raw, opened.forms, pipeline.outcome()):
        yield (made.identity, made.row.input_ids.tobytes()), (made.file, made.line)


def _counts(row: Row) -> str:
    weight = "" if row.weights is None else f", weight {row.target_weight:g}"
    if row.labels is not None:
        return f"{len(row.input_ids)} tokens, labels {', '.join(f'{label:g}' for label in row.labels)}{weight}"
    return f"{len(row.input_ids)} tokens, {row.trained.sum()} trained{weight}"


def _pair(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key, value


def _own_keys(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    own = dict(_pair(text) for text, _ in OWN_KEYS)
    mine = [argument for argument in arguments if argument.partition("=")[0] in own]
    own |= map(_pair, mine)
    errors = []
    if not own["n"].isdigit():
        errors.append(f"n={own['n']}: n is a whole number. Try: n=5")
    if own["part"] not in ("train", "eval"):
        errors.append(f"part={own['part']}: part is train or eval. Try: part=train")
    if own["as"] not in ("tokens", "openai", "datatrove"):
        errors.append(f"as={own['as']}. Allowed: tokens, openai, datatrove")
    elif own["as"] == "datatrove":
        if not own["out"] or absolute(own["out"]).is_file():
            errors.append(f"as=datatrove writes a folder, and out={own['out']} is none. Try: out=FOLDER")
    elif own["as"] == "openai" and not own["out"].endswith(".jsonl"):
        errors.append(f"as=openai writes a file, and out={own['out']} is none. Try: out=FILE.jsonl")
    elif own["out"] and not own["out"].endswith(KINDS):
        errors.append(f"out={own['out']}: is not a kind of file that is written. Allowed: FILE.html, FILE.jsonl")
    if errors:
        raise ConfigError(errors)
    return own, [argument for argument in arguments if argument not in mine]


if __name__ == "__main__":
    command(main, help=help_text("inspect_data", OWN_KEYS))
