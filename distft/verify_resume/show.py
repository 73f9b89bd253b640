"""The findings on a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from distft.verify_resume.finding import Finding


def show(findings: Sequence[Finding], title: str, console: Console) -> None:
    """Prints a line for each finding, what does not hold in red."""
    table = Table(title=title, title_justify="left")
    for heading in ("", "compared", "resumed"):
        table.add_column(heading, overflow="fold")
    for each in findings:
        table.add_row(each.what, each.compared, each.verdict, style=None if each.holds else "red")
    console.print(table)
