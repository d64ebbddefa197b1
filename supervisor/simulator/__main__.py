"""The simulated provider as a program: `python -m supervisor.simulator`."""

import sys

from supervisor.simulator import main

sys.exit(main())
