"""The command `smsengine`: `python -m supervisor.cli`."""

from supervisor.command import main

main()
