"""`python -m pavdm` is the `pavdm` command."""

import sys

from pavdm.cli import main

sys.exit(main())
