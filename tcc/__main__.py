"""`python -m tcc`: the command `tcc`, for where scripts are not on the path."""

from __future__ import annotations

import sys

from tcc_server.cli import main

if __name__ == "__main__":
    sys.exit(main())
