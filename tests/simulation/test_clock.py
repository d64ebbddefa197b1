"""What ends with a world: all that its processes have begun."""

from __future__ import annotations

import gc
import warnings
from random import Random

from tests.simulation.roles import ROLES
from tests.simulation.wires import Weather
from tests.simulation.world import Settings, World


def test_what_a_process_had_begun_when_it_was_killed_is_closed_with_its_world() -> None:
    gc.collect()
    for steps in range(0, 60, 3):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            with World(1, Settings.drawn(Random(1), [101]), Weather()) as world:
                world.mains = ROLES
                roles = [world.spawn(role) for role in ("ingest", "worker", "ledger")]
                world.clock.run(5.0, steps)
                for role in roles:
                    world.kill(role)
            tasks = [task for role in roles for task in role.process.tasks]
            assert all(task.done() for task in tasks), steps
            assert tasks or not steps
            del world, role, roles, tasks
            gc.collect()
        assert [str(warning.message) for warning in seen] == [], steps
