"""How many workers, with how much concurrency, meet a promised latency: rules, without clock or I/O.

`peaks.py`          arrivals by organisation and queue
`response_times.py` how long providers take to answer
`targets.py`        what is promised
`costs.py`          what the engine's own processes cost, CPU and waiting
`queueing.py`       the formulas that exist in closed form
`simulation.py`     the same system event by event, for the tails that have no formula (`_simulate.pyx`)
`plan.py`           the smallest plan that meets the targets
`readings.py`       what one node has measured of a queue lately
`autoscale.py`      the plan for that, again and again, and when its shape takes the place of the present one

docs/capacity.md has the theory and its sources.
"""
