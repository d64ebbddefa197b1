"""The program `smsengine`, from its first instruction on: Ctrl-C ends it silently while it loads.

What it loads takes a few tenths of a second, longer from a cold disk. Until then there is nobody to turn a
KeyboardInterrupt into a sentence, and Python would print where it was.
"""

from __future__ import annotations

import signal


def main() -> None:
    """Load the commands, then run the command line of this process and exit."""
    handler = signal.getsignal(signal.SIGINT)
    # One that is ignored, as with nohup, stays so.
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Imported here, since this is what takes the time.
    from supervisor.cli import main as carry_out

    signal.signal(signal.SIGINT, handler)
    carry_out()


if __name__ == "__main__":
    main()
