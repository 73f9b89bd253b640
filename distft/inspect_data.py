"""`distft inspect_data`: prints prepared rows token by token, with the trained tokens marked.

It reads the same shards as training.
"""

from typing import Any

from rich.console import Console
from rich.text import Text

from distft.config import ConfigError, command, compose, help_text
from distft.data.key import tokenizer_dir
from distft.data.shards import Row, Rows
from distft.data.stage import ensure_prepared
from distft.data.tokenize import load_tokenizer

OWN_KEYS = (("n=5", "number of rows, from the first"), ("part=train", "train | eval"))


def main(arguments: list[str]) -> int:
    """Prints the first `n` rows of a part, tokens separated by │ and trained spans between ⟦ and ⟧."""
    own, overrides = _own_keys(arguments)
    config = compose(overrides)
    prepared = ensure_prepared(config)
    rows = Rows(prepared.folder, own["part"])
    tokenizer = load_tokenizer(tokenizer_dir(config), config.model.trust_remote_code)
    console = Console(soft_wrap=True, highlight=False)
    for index in range(min(int(own["n"]), len(rows))):
        row = rows[index]
        head = f"row {index} of {len(rows):,} ({own['part']}): {len(row.input_ids)} tokens, {row.trained.sum()} trained"
        console.print(Text(head, style="bold"))
        console.print(marked(row, tokenizer))
    return 0


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


def _own_keys(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    own = dict(pair.split("=") for pair, _ in OWN_KEYS)
    mine = [argument for argument in arguments if argument.partition("=")[0] in own]
    own |= dict(argument.split("=", 1) for argument in mine)
    if not own["n"].isdigit():
        raise ConfigError([f"n={own['n']}: n is a whole number. Try: n=5"])
    if own["part"] not in ("train", "eval"):
        raise ConfigError([f"part={own['part']}: part is train or eval. Try: part=train"])
    return own, [argument for argument in arguments if argument not in mine]


if __name__ == "__main__":
    command(main, help=help_text("inspect_data", OWN_KEYS))
