"""`python -m distft COMMAND` is the same as `distft COMMAND`."""

import sys

from distft.cli import main

if __name__ == "__main__":
    sys.exit(main())
