"""Renders a run as one self-contained HTML file, without network access or scripts."""

import re
import shlex
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from distft.report.curves import page_panels
from distft.report.facts import GIB, Facts
from distft.report.tables import attempt_columns
from distft.run import json_text, state_in_words

MAIN_PACKAGES = ("distft", "torch", "deepspeed", "transformers", "tokenizers", "datasets", "peft", "safetensors")


def template(name: str, **filters: Callable[..., object]) -> Template:
    """Returns a template of this package; it escapes every text, and a missing value is an error."""
    environment = Environment(
        loader=PackageLoader("distft.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(name)


def render(facts: Facts, folder: str = "RUN", refresh: int | None = None) -> str:
    """Returns the page; every text from the run is escaped, only distft's own drawings are markup.

    folder: of the run, as the page prints it. refresh: seconds after which a browser loads the page again.
    """
    filters = {
        "in_words": state_in_words,
        "gib": lambda size: f"{size / GIB:,.2f}",
        "words": lambda name: name.replace("_", " "),
        "yaml": json_text,
        "breakable": breakable,
        "answer": answer_text,
        "shell": shlex.quote,
    }
    values = {field.name: getattr(facts, field.name) for field in fields(facts)}
    values["attempts"] = [attempt_columns(each) for each in facts.attempts]
    panels = [(panel, Markup(svg)) for panel, svg in page_panels(facts.rows)]
    values |= {"panels": panels, "main_packages": MAIN_PACKAGES, "folder": folder, "refresh": refresh}
    return template("page.html.jinja", **filters).render(values)


def breakable(key: str) -> Markup:
    """Returns a key that may wrap after its dots and underscores."""
    return Markup(".<wbr>").join(Markup("_<wbr>").join(part.split("_")) for part in key.split("."))


def answer_text(text: str) -> str | Markup:
    """Returns an answer as the page shows it: a model that writes only line breaks would fill the screen with them."""
    if not text.strip():
        return Markup("<i>{}</i>").format("white space alone" if text else "empty")
    return re.sub(r"\n\s*\n", "\n\n", text.strip())


def write(facts: Facts, out: Path, folder: Path) -> None:
    """Writes the page of the run in `folder` as a file."""
    out.write_text(render(facts, shlex.quote(str(folder))))
