"""The command line as `python -m quantsr`."""

import sys

from quantsr.cli import main

sys.exit(main())
