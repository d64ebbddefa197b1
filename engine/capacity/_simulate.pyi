from array import array

BINS: int

def arrive(sums: array[float], seconds: float, seed: int) -> tuple[array[float], array[int]]:
    """Random times of bursts from 0 to `seconds`, ascending, and whose burst each is.

    `sums`: of each organisation, its bursts a second and those of all before it. The same seed gives the
    same.
    """

def simulate(
    burst_times: array[float],
    burst_organisations: array[int],
    burst_sizes: array[int],
    queues: array[int],
    processes: tuple[int, int],
    concurrency: tuple[int, int],
    ahead: tuple[int, int],
    worth: tuple[int, int],
    round_s: tuple[float, float],
    event_s: tuple[float, float],
    backoff_s: tuple[float, float],
    usual_s: tuple[float, float],
    express_answers: array[float],
    normal_answers: array[float],
    given: array[float],
    inner: array[float],
    slot_s: float,
    share: float,
    horizon_s: float,
    segments: float,
    failed: float,
    counted_from: float,
    seed: int,
    express_bins: array[int],
    normal_bins: array[int],
    deaths: tuple[tuple[float, int], ...],
    recovery_s: tuple[float, float, float, float],
) -> tuple[float, tuple[float, float], tuple[float, float]]:
    """Run all arrivals to their end. Returns the time of the end, and by queue the CPU and the slots that
    were used, process-seconds and slot-seconds; `engine.capacity.simulation` says what the arguments are.
    `deaths`: (time, process), seconds and the place among all processes, those of express first.
    `recovery_s`: from a death to the replacement and to the fence, and between two looks at what is left,
    without and with something found.

    Raises ValueError for more than 2**29 messages, MemoryError.
    """
