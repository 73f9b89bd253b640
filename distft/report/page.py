"""Renders a run as one self-contained HTML file, without network access or scripts."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from distft.report.curves import page_panels
from distft.report.facts import GIB, Facts, attempt_columns
from distft.run import state_in_words

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


def render(facts: Facts) -> str:
    """Returns the page; every text from the run is escaped, only distft's own drawings are markup."""
    page = template("page.html.jinja", in_words=state_in_words, gib=lambda size: f"{size / GIB:,.2f}")
    values = {field.name: getattr(facts, field.name) for field in fields(facts)}
    values["attempts"] = [attempt_columns(each) for each in facts.attempts]
    panels = [Markup(svg) for svg in page_panels(facts.rows)]
    return page.render(**values, panels=panels, main_packages=MAIN_PACKAGES)


def write(facts: Facts, out: Path) -> None:
    """Writes the page as a file."""
    out.write_text(render(facts))
