"""How long a method is trained on so many rows, in batches of which size, and how many rows are held out."""

import math
from typing import Any

from launcher.choosing.methods import Method

SMALL, LARGE = 512, 4096
"""Rows up to which a batch has 8 rows, and from which on it has 32."""
HEAD_UPDATES, BODY_UPDATES = 300, 160
"""Fewest updates: those of the studies of few rows (EXPERIMENTS 2026-11-29), whatever the number of rows."""
MOST_UPDATES = 4000
HEAD_EPOCHS, BODY_EPOCHS = 20, 4
PAIR_UPDATES = 400
"""Most updates of 16 pairs each: SetFit's default is 40 pairs a row, and more rows need fewer of them."""
ENOUGH_TO_STOP = 50
"""Held-out rows from which on the best state is chosen by them, and patience ends a run. With 8 to 16 of them the last
state was better than the best one (0.843 against 0.812, EXPERIMENTS 2026-11-29)."""
EVALUATIONS, PATIENCE = 20, 5
SMALL_ENOUGH_FOR_ALL = 2000
"""Rows up to which a run trains once more on held-out rows too, which was worth 0.02 to 0.05 with few rows."""


def validation_share(num_rows: int) -> float:
    """Share of the rows that is held out: a quarter of few rows, a tenth of many, at most about 2,000."""
    share = 0.25 if num_rows < 400 else 0.2 if num_rows < 1000 else 0.1
    return min(share, max(0.01, 2000 / num_rows))


def batch_size(method: Method, num_rows: int) -> int:
    """Rows an update."""
    given = method.settings.get("data", {}).get("batch_size")
    return int(given or (8 if num_rows <= SMALL else 16 if num_rows < LARGE else 32))


def updates(method: Method, num_rows: int, size: int | None = None) -> int:
    """Updates of a run on so many training rows, in batches of the method's size or another; 0 if it makes none."""
    if method.trained == "nothing":
        return 0
    size = size or batch_size(method, num_rows)
    per_epoch = math.ceil(num_rows / size)
    if method.name == "contrastive":
        return min(PAIR_UPDATES, 80 * per_epoch)
    least, epochs = (HEAD_UPDATES, HEAD_EPOCHS) if method.trained == "head" else (BODY_UPDATES, BODY_EPOCHS)
    return min(MOST_UPDATES, max(least, epochs * per_epoch))


def schedule(method: Method, num_rows: int, size: int | None = None) -> dict[str, Any]:
    """Nested settings: batch, epochs and updates, the last of which ends the run; `size`: a batch that is given."""
    total = updates(method, num_rows, size)
    if not total:
        return {}
    size = size or batch_size(method, num_rows)
    return {
        "data": {"batch_size": size},
        "optim": {"epochs": math.ceil(total / math.ceil(num_rows / size)), "max_steps": total},
    }
