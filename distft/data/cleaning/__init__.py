"""Cleaning: rules find rows to tag, drop, repair or redact; all rows are seen before any decision is made."""
