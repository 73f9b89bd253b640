"""Every use of a private or recent library API, one module per library or part of one.

Such an API may change or disappear in any release. So each module lists its uses in REACHES, with the versions it was
seen with and why it is needed. `tests/compat` checks them against the installed versions, and against the floors in
pyproject.toml by the signatures in `tests/floors.json`.
"""
