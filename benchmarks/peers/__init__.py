"""The same rows and weights trained by distft and by its peers, in turn; see `python -m benchmarks.peers --help`."""
