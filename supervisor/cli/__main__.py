"""The command `smsengine`: `python -m supervisor.cli`."""

from supervisor.__main__ import main

main()
