"""Cleaning rules, one per file; the order in which they apply is that of the `clean` group's sections."""
