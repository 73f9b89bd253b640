"""Diagnostics of this machine, cluster and install: small checks that report what they found and what to do."""
