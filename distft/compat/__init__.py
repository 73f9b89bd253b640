"""Every reach into a private or young part of a library, one module for each library or part of one.

Such a part may change or go with any release. So each module names what it reaches in REACHES: the versions it was seen
with and why it is needed. `tests/compat` holds these to the installed versions, and to the floors in pyproject.toml by
their signatures in `tests/floors.json`.
"""
