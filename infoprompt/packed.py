"""Several runs side by side in one process, which share each pass of the backbone."""

from collections import deque
from collections.abc import Sequence
from typing import Literal

from infoprompt.config import ConfigError, RunConfig
from infoprompt.engine.pack import Ended, Pack, pack_key, why_alone
from infoprompt.engine.ranks import start_ranks
from infoprompt.result import RunResult
from infoprompt.stopping import Preempted
from infoprompt.train import asking_run


def run_packed(
    configs: Sequence[RunConfig], size: int, *, resume: Literal["auto", "never"] = "never"
) -> list[RunResult | Exception]:
    """Train runs, at most so many at a time; every rank calls it. On a CPU each comes to what `run` makes of it.

    Args:
        configs: the runs, over one backbone; each has an output folder of its own.
        size: places. One that a run has left is the next one's.
        resume: as for `run`.
    Returns:
        The result of each, or why it failed; the others go on.
    Raises:
        ConfigError: a run can share no pass, or not with the others.
        Preempted: a signal told a rank to end; each run has saved its state.
    """
    ranks = start_ranks(configs[0].engine)
    keys = [pack_key(config, ranks.world_size) for config in configs]
    for config, key in zip(configs, keys, strict=True):
        if key is None or key != keys[0]:
            why = why_alone(config) or "its backbone, engine or parts of a batch are not those of the first run"
            raise ConfigError(f"{config.run_name} cannot be packed: {why}. Run it alone.")
    pack, waiting = Pack(ranks), deque(range(len(configs)))
    free, at = list(range(size)), dict[int, int]()
    found: dict[int, RunResult | Exception] = {}
    told: list[Preempted] = []

    def note(ended: Ended | None) -> None:
        if ended is None:
            return
        number = at.pop(ended.place)
        free.append(ended.place)
        if isinstance(ended.error, Preempted):
            told.append(ended.error)
        else:
            found[number] = ended.result if ended.error is None else ended.error

    while waiting or len(pack):
        while waiting and free and pack.between_updates:
            place, number = free.pop(0), waiting.popleft()
            at[place] = number
            note(pack.start(place, asking_run(configs[number], resume=resume, pack=pack, place=place)))
        for ended in pack.update():
            note(ended)
        if told:
            raise told[0]
    return [found[number] for number in range(len(configs))]
