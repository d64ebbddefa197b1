"""The command `smsengine`: `python -m supervisor.cli`."""

from supervisor.cli import main

main()
