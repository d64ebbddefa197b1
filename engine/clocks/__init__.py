"""Time: the stores' clock as a process knows it, what is periodic, pauses, and what ends later."""
