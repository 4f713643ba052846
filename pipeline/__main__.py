"""`python -m pipeline`."""

import os
import sys

from pipeline.cli import main

if __name__ == "__main__":
    # Pydantic would read the metadata of every installed package in search of plug-ins, at each start.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    sys.exit(main())
