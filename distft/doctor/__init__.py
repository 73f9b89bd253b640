"""What is wrong with this machine, cluster or install: small checks, each of which says what it saw and what to do."""
