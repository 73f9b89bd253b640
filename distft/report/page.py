"""Renders the facts of a run as one self-contained HTML file, without network access or scripts."""

from dataclasses import fields
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from distft.report.curves import page_panels
from distft.report.facts import GIB, Facts, attempt_columns
from distft.run import state_in_words

MAIN_PACKAGES = ("distft", "torch", "deepspeed", "transformers", "tokenizers", "datasets", "peft", "safetensors")


def render(facts: Facts) -> str:
    """Returns the page; every text from the run is escaped, only distft's own drawings are markup."""
    environment = Environment(
        loader=PackageLoader("distft.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["in_words"] = state_in_words
    environment.filters["gib"] = lambda size: f"{size / GIB:,.2f}"
    values = {field.name: getattr(facts, field.name) for field in fields(facts)}
    values["attempts"] = [attempt_columns(each) for each in facts.attempts]
    panels = [Markup(svg) for svg in page_panels(facts.rows)]
    return environment.get_template("page.html.jinja").render(**values, panels=panels, main_packages=MAIN_PACKAGES)


def write(facts: Facts, out: Path) -> None:
    out.write_text(render(facts))
