"""``python -m fastbp``: the command line."""

import sys

from fastbp.cli import main

sys.exit(main())
