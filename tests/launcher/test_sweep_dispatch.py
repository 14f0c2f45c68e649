"""The dispatcher under groups that die, are lost and come back; see `sweep_simulator.py`."""

import math
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sweep_simulator import Toy, World, luck, toy_sweep

from infoprompt.config import ConfigError
from launcher.pool.worker_groups import MOST_IDLE_STARTS
from launcher.sweeps.dispatcher import Dispatcher
from launcher.sweeps.journal import load_trials, save_trial
from launcher.sweeps.resume import check_same_sweep
from launcher.sweeps.search import Search

GRID = {"lr": {"grid": [0.1, 0.3, 0.2]}, "depth": {"grid": [1, 2]}}
RANGES = {"lr": {"uniform": [0, 1]}, "depth": {"choice": [1, 2, 3]}}
SCHEDULERS = {
    "none": {"space": GRID, "seeds": [0, 1]},
    "asha": {
        "space": RANGES,
        "num_samples": 9,
        "scheduler": {"kind": "asha", "grace_steps": 2, "reduction_factor": 2},
    },
    "asha with seeds": {
        "space": RANGES,
        "num_samples": 7,
        "seeds": [0, 1, 2],
        "scheduler": {"kind": "asha", "grace_steps": 2, "reduction_factor": 2},
    },
    "median": {
        "space": RANGES,
        "num_samples": 8,
        "seeds": [3, 4],
        "scheduler": {"kind": "median", "startup_trials": 2},
    },
    "optuna": {
        "space": {"lr": {"uniform": [0, 1]}, "depth": {"integer": [1, 3]}},
        "searcher": "optuna",
        "num_samples": 14,
        "scheduler": {"kind": "asha", "grace_steps": 2},
    },
    "pbt": {
        "space": {"optim.lr": {"uniform": [0, 1]}, "objective.head_weight": {"choice": [0, 1, 2]}},
        "num_samples": 5,
        "seeds": [0, 1],
        "scheduler": {"kind": "pbt", "interval_steps": 4, "quantile": 0.4},
    },
}
ORDER_MATTERS = ("asha", "asha with seeds", "median", "optuna")
"""What is compared with whom depends on who came first, so only one group has one outcome."""


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory where that can be had: a journal is renamed tens of thousands of times here."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        yield Path(folder)


def world(
    folder: Path, kind: str = "none", seed: int = 0, num_groups: int = 3, toy: Toy | None = None, **more
) -> World:
    in_world = {name: more.pop(name) for name in ("group_runs", "lose") if name in more}
    return World(toy_sweep(folder, **{**SCHEDULERS[kind], **more}), toy or Toy(), seed, num_groups, **in_world)


def kills(share: float, at_most: int = 40):
    """Chaos that kills the workers of a random group at random moments; counts those that had work."""
    count = {"kills": 0, "with work": 0}

    def strike(one: World) -> None:
        if one.groups and count["kills"] < at_most and one.random.random() < share:
            name = one.random.choice(list(one.groups))
            count["kills"] += 1
            count["with work"] += name in one.at
            one.die(name)

    return strike, count


# ---- plain sweeps


@pytest.mark.parametrize("num_groups", [1, 2, 3, 4, 5])
def test_every_run_is_trained_exactly_once_in_any_order_and_ranked_as_by_a_plain_loop(tmp_path, num_groups):
    for seed in range(8):
        one = world(tmp_path / str(seed), seed=seed, num_groups=num_groups).go()
        points = one.sweep.points
        assert one.updates == {(n, s, step): 1 for n in range(6) for s in (0, 1) for step in range(1, 9)}
        plain = [statistics.fmean(Toy().alone(values, s) for s in (0, 1)) for values in points]
        assert [trial.score for trial in one.trials] == plain
        assert [trial.values for trial in one.trials] == list(points)


def test_every_event_names_its_trial_and_each_trial_ends_once(tmp_path):
    one = world(tmp_path).go()
    kinds = [(event.kind, event.trial) for event in one.dispatcher.events]
    assert all(kinds.count(("ended", number)) == 1 for number in range(6))
    assert all(kinds.count(("started", number)) == 2 for number in range(6))  # once a seed
    assert one.dispatcher.groups.shown() == dict.fromkeys(("group-0", "group-1", "group-2"), "idle")
    assert one.dispatcher.budget.exhausted is None


# ---- deaths


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_killed_workers_change_no_outcome(tmp_path, kind):
    num_groups = 1 if kind in ORDER_MATTERS else 3
    calm = world(tmp_path / "calm", kind, num_groups=1).go().outcome()
    died = 0
    for seed in range(5):
        strike, count = kills(0.04)
        one = world(tmp_path / str(seed), kind, seed, num_groups).go(strike)
        assert same(one.outcome(), calm, kind)
        assert sum(run.deaths for trial in one.trials for run in trial.runs) == count["with work"]
        died += count["with work"]
    assert died > 10


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_with_many_worker_groups_and_deaths_every_trial_still_comes_to_an_end(tmp_path, kind):
    for seed in range(5):
        strike, _ = kills(0.05)
        one = world(tmp_path / str(seed), kind, seed, num_groups=4).go(strike)
        assert one.dispatcher.done
        assert {trial.status for trial in one.trials} <= {"finished", "stopped"}
        assert [trial.number for trial in one.trials] == list(range(one.sweep.num_trials))
        for trial in one.trials:
            if trial.status == "finished" and not trial.taken_over:
                expected = [Toy().alone(trial.values, run.seed) for run in trial.runs]
                assert [run.result["dev"]["accuracy"] for run in trial.runs] == expected


def same(outcome, calm, kind) -> bool:
    """Equal, but that `pbt` may go past an exchange by one evaluation where workers die in the middle of one."""
    if kind != "pbt":
        return outcome == calm
    return [(one[0], one[1], one[2]) for one in outcome] == [(one[0], one[1], one[2]) for one in calm]


def test_lost_groups_do_not_count_and_what_they_still_say_is_not_heard(tmp_path):
    calm = world(tmp_path / "calm").go().outcome()
    lost = []
    for seed in range(8):
        one = world(tmp_path / str(seed), seed=seed, num_groups=4, retries=0, lose=True)

        def lose(one: World, seed=seed) -> None:
            busy = one.dispatcher.groups.on({f"node-of-{name}" for name in one.groups})
            if busy and lost.count(seed) < 6 and one.random.random() < 0.05:
                name = one.random.choice(busy)
                one.dispatcher.lost(name, "its node is gone")
                one.at.pop(name, None)  # it goes on, but nothing it says or writes is heard
                lost.append(seed)
                if one.random.random() < 0.7:
                    one.start(name)  # or comes back as new workers

        one.go(lose)
        assert one.outcome() == calm
        assert all(run.deaths == 0 for trial in one.trials for run in trial.runs)
    assert len(lost) > 20


def test_a_worker_group_that_was_taken_for_lost_and_is_not_registers_again(tmp_path):
    one = world(tmp_path, num_groups=0).dispatcher
    one.register("a", 1, ["x"])
    old = one.next("a", 1)
    one.lost("a", "nothing was heard of it")
    assert one.report(old.token, 2, {"accuracy": 1.0, "score": 1.0}, last=False) == "stop"
    assert one.next("a", 1) == "re-register"
    one.register("a", 2, ["x"])
    new = one.next("a", 2)
    assert (new.number, new.seed) == (old.number, old.seed)
    assert one.trials[0].runs[0].deaths == 0


def test_an_old_incarnation_is_sent_away_and_its_reports_stop_it(tmp_path):
    one = world(tmp_path, num_groups=0).dispatcher
    one.register("a", 1, ["x"])
    job = one.next("a", 1)
    one.register("a", 2, ["x"])
    assert one.next("a", 1) == "leave"
    assert one.report(job.token, 2, {"accuracy": 1.0, "score": 1.0}, last=False) == "stop"
    one.finished(job.token, {"dev": {"accuracy": 9.0}, "metric": "accuracy", "steps": 8})
    one.left_off(job.token, "stop")
    one.raised(job.token, 0, "boom", connection=False, ends_group=False)
    assert one.trials[0].status == "open"
    assert one.trials[0].runs[0].curve == []
    again = one.next("a", 2)
    assert (again.number, again.seed) == (job.number, job.seed)
    assert again.token != job.token


def test_a_worker_group_is_silent_only_with_work_and_a_heartbeat_is_enough(tmp_path):
    one = world(tmp_path, num_groups=0)
    one.dispatcher.register("a", 1, ["x"])
    one.dispatcher.register("b", 1, ["y"])
    one.dispatcher.next("a", 1)
    one.clock += 100
    assert one.dispatcher.groups.silent(60, one.clock) == ["a"]
    assert one.dispatcher.stalled_seconds == 100
    one.dispatcher.heartbeat("a", 0)
    assert one.dispatcher.groups.silent(60, one.clock) == ["a"]
    one.dispatcher.heartbeat("a", 1)
    assert one.dispatcher.groups.silent(60, one.clock) == []
    assert one.dispatcher.groups.on({"x", "y"}) == ["a"]
    assert one.dispatcher.groups.shown() == {"a": "trial 0 seed 0", "b": "idle"}


@pytest.mark.parametrize("retries", [0, 2])
def test_more_deaths_than_retries_fail_the_trial_with_what_a_rank_said(tmp_path, retries):
    one = world(tmp_path, num_groups=0, retries=retries).dispatcher
    for generation in range(retries + 2):
        one.register("a", generation, ["x"])
        if generation <= retries:
            assert one.next("a", generation).number == 0
            one.raised(
                one.groups["a"].job.token, 1, "rank 1: Connection reset by peer", connection=True, ends_group=True
            )
    reason = one.trials[0].reason
    assert one.trials[0].status == "failed"
    assert f"its workers were killed {retries + 1} times (retries is {retries})" in reason
    assert "a rank said: rank 1: Connection reset by peer" in reason
    assert one.next("a", retries + 1).number == 1


def test_the_reason_is_a_ranks_own_error_and_never_a_peers_broken_connection(tmp_path):
    one = world(tmp_path, num_groups=1)
    while not one.at:
        one.tick()
    broken = (0, "rank 0: RuntimeError: Connection closed by peer", True)
    one.die("group-0", broken, (1, "rank 1: ValueError: boom", False))
    one.go()
    assert one.trials[0].status == "failed"
    assert one.trials[0].reason == "rank 1: ValueError: boom"
    assert {trial.status for trial in one.trials[1:]} == {"finished"}
    assert one.trials[0].runs[0].status == "failed"


def test_broken_connections_alone_are_a_death_and_the_run_goes_on(tmp_path):
    calm = world(tmp_path / "calm").go().outcome()
    one = world(tmp_path / "died", num_groups=1)
    while not one.at:
        one.tick()
    one.die("group-0", (0, "rank 0: RuntimeError: Connection closed by peer", True))
    assert one.go().outcome() == calm
    assert one.trials[0].runs[0].deaths == 1


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_trial_that_raises_fails_with_its_text_and_the_rest_goes_on(tmp_path, kind):
    bad: list[float] = []

    def broken(values, seed, step):
        first = next(iter(values.values()))
        if not bad:
            bad.append(first)
        return f"the loss of update {step} is not finite" if first == bad[0] and step == 3 else None

    for seed in range(4):
        bad.clear()
        one = world(tmp_path / str(seed), kind, seed, toy=Toy(broken=broken)).go()
        assert one.dispatcher.done
        failed = [trial for trial in one.trials if trial.status == "failed"]
        assert failed
        assert {trial.reason for trial in failed} == {"the loss of update 3 is not finite"}
        assert all(next(iter(trial.values.values())) == bad[0] for trial in failed)
        assert {trial.status for trial in one.trials if trial not in failed} <= {"finished", "stopped"}
        assert any(trial.status == "finished" for trial in one.trials)


def test_a_worker_group_whose_workers_only_ever_start_is_given_up(tmp_path):
    one = world(tmp_path, num_groups=0).dispatcher
    for generation in range(MOST_IDLE_STARTS):
        one.register("a", generation, ["x"])
    assert one.next("a", MOST_IDLE_STARTS - 1) != "leave"  # it came: the count begins anew, whatever the job does
    for generation in range(100, 101 + MOST_IDLE_STARTS):
        one.register("a", generation, ["x"])
    assert one.next("a", 100 + MOST_IDLE_STARTS) == "leave"
    assert one.groups.shown() == {}
    assert "never asked for work" in one.events[-1].text


def test_trials_that_kill_every_worker_fail_one_by_one_and_no_worker_group_is_given_up(tmp_path):
    one = world(tmp_path, num_groups=1, retries=2)

    def kill_before_the_first_report(one: World) -> None:
        if "group-0" in one.at:
            one.die("group-0")

    one.go(kill_before_the_first_report)
    assert [trial.status for trial in one.trials] == ["failed"] * 6
    assert one.dispatcher.groups.shown() == {"group-0": "idle"}


# ---- the whole sweep is killed


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_killed_sweep_goes_on_and_ends_as_if_nothing_had_happened(tmp_path, kind):
    num_groups = 1 if kind in ORDER_MATTERS else 3
    calm = world(tmp_path / "calm", kind, num_groups=num_groups).go()
    for seed in range(6):
        one = world(tmp_path / str(seed), kind, seed, num_groups)
        finished: dict[tuple[int, int], dict] = {}
        for _ in range(4):
            one.go(ticks=one.random.randrange(5, 250))
            finished |= {(t.number, run.seed): run.result for t in one.trials for run in t.runs if run.result}
            before = one.num_updates, one.updates.copy()
            one.begin()  # nothing of the old dispatcher is left but journal and disk
            over = {trial.number for trial in one.trials if trial.over}
            one.go(ticks=40)
            assert all(one.updates[key] == before[1][key] for key in one.updates if key[0] in over)
        one.go()
        assert same(one.outcome(), calm.outcome(), kind)
        for (number, seed_of_run), result in finished.items():
            run = next(run for run in one.trials[number].runs if run.seed == seed_of_run)
            assert run.result == result or one.trials[number].taken_over


def test_the_exchanges_of_pbt_are_the_same_if_the_sweep_is_killed_between_reports(tmp_path):
    calm = world(tmp_path / "calm", "pbt").go().outcome()
    for seed in range(12):
        one = world(tmp_path / str(seed), "pbt", seed)
        one.go(ticks=one.random.randrange(5, 200))
        while any(run.step % 4 == 0 and run.status == "running" for trial in one.trials for run in trial.runs):
            one.tick()  # nobody is in the middle of leaving off for an exchange
        one.begin()
        assert one.go().outcome() == calm


def test_a_trial_that_failed_for_its_score_alone_is_not_trained_again(tmp_path):
    one = world(tmp_path, toy=Toy(score=lambda level, step: math.nan)).go()
    assert {trial.status for trial in one.trials} == {"failed"}
    updates = one.num_updates
    for trial in load_trials(tmp_path):
        trial.status = "open"
        save_trial(tmp_path, trial)
    one.begin()
    one.go()
    assert one.num_updates == updates
    assert {trial.status for trial in one.trials} == {"failed"}


# ---- groups of seeds


@pytest.mark.parametrize("num_groups", [1, 2, 4])
def test_no_run_goes_past_a_rung_before_all_seeds_of_its_trial_have_come_to_it(tmp_path, num_groups):
    rungs = (2, 4)

    def check(one: World) -> None:
        farthest: dict[tuple[int, int], int] = {}
        for number, seed, step in one.updates:
            farthest[number, seed] = max(step, farthest.get((number, seed), 0))
        for trial in one.trials:
            reached = [farthest.get((trial.number, run.seed), 0) for run in trial.runs]
            for rung in rungs:
                assert not (max(reached) > rung and min(reached) < rung)

    for seed in range(6):
        strike, _ = kills(0.03)
        one = world(tmp_path / str(seed), "asha with seeds", seed, num_groups)
        while one.groups:
            one.tick()
            strike(one)
            check(one)


def test_the_last_to_arrive_goes_on_at_once_and_the_others_paused_once(tmp_path):
    one = world(tmp_path, "asha with seeds", num_groups=1, num_samples=1, scheduler={"kind": "asha", "grace_steps": 4})
    one.go()
    starts = [(event.kind, event.text) for event in one.dispatcher.events if event.kind in ("started", "resumed")]
    assert starts == [
        ("started", "seed 0"),
        ("started", "seed 1"),
        ("started", "seed 2"),  # passes update 4 without leaving off
        ("resumed", "seed 1"),
        ("resumed", "seed 0"),
    ]
    assert one.num_updates == 3 * 8


def test_means_at_the_same_step_are_compared_and_not_single_seeds(tmp_path):
    # Trial 1 has the best single seed of all at every rung, and the lowest mean.
    table = {0: (1.0, 1.0), 1: (1.5, 0.0), 2: (1.1, 1.1)}
    toy = Toy(update=lambda level, values, seed, step: level + table[values["lr"]][seed])
    scheduler = {"kind": "asha", "grace_steps": 2, "reduction_factor": 2}
    one = world(tmp_path, num_groups=1, toy=toy, space={"lr": {"grid": [0, 1, 2]}}, scheduler=scheduler).go()
    assert [trial.status for trial in one.trials] == ["finished", "stopped", "finished"]
    assert [trial.scores[0] for trial in one.trials] == [(2, 2.0), (2, 1.5), (2, 2.2)]
    assert one.trials[1].reason.endswith("at update 2 with a mean of 1.5000")


def test_paused_runs_of_a_stopped_trial_never_run_again(tmp_path):
    for seed in range(5):
        one = world(tmp_path / str(seed), "asha with seeds", seed, num_groups=3).go()
        stopped = [trial for trial in one.trials if trial.status == "stopped"]
        assert stopped
        for trial in stopped:
            rung = trial.scores[-1][0]
            assert {step for number, _, step in one.updates if number == trial.number} == set(range(1, rung + 1))
            assert {run.status for run in trial.runs} == {"stopped"}


def test_a_single_seed_never_pauses(tmp_path):
    one = world(tmp_path, "asha", num_groups=2).go()
    assert not [event for event in one.dispatcher.events if event.kind == "resumed"]
    assert any(trial.status == "stopped" for trial in one.trials)


def test_a_seed_that_ends_before_the_rung_lets_the_others_on(tmp_path):
    toy = Toy(ends_early=lambda values, seed: 2 if seed == 0 else None)
    for seed in range(8):
        strike, _ = kills(0.02)
        scheduler = {"kind": "asha", "grace_steps": 4, "reduction_factor": 2}
        one = world(tmp_path / str(seed), "asha with seeds", seed, toy=toy, scheduler=scheduler).go(strike)
        assert {trial.status for trial in one.trials} <= {"finished", "stopped"}
        assert all(trial.runs[0].step == 2 for trial in one.trials)


# ---- what schedulers are for


def near(best: float):
    """Trials whose final score is higher the nearer `x` is to a point; early scores are already telling, but noisy."""

    def update(level, values, seed, step):
        final = 1 - abs(values["x"] - best) - 0.3 * abs(values["y"] - best)
        return final * (1 - math.exp(-step / 9)) + 0.002 * luck(values["x"], seed, step)

    return Toy(update=update, steps=27, every=1)


@pytest.mark.parametrize("best", [0.1, 0.5, 0.8])
def test_asha_finds_the_same_best_with_half_of_the_updates(tmp_path, best):
    space = {"x": {"uniform": [0, 1]}, "y": {"uniform": [0, 1]}}
    common = {"space": space, "num_samples": 27, "sample_seed": 3, "num_groups": 2, "toy": near(best)}
    plain = world(tmp_path / "random", **common, seeds=[0]).go()
    asha = world(tmp_path / "asha", **common, seeds=[0], scheduler={"kind": "asha", "grace_steps": 3}).go()
    scores = [max(t.score for t in one.trials if t.score is not None) for one in (plain, asha)]
    assert scores[1] == scores[0]
    assert asha.num_updates <= plain.num_updates / 2
    assert plain.num_updates == 27 * 27


def test_median_stops_what_is_below_the_median_of_those_that_finished(tmp_path):
    toy = Toy(update=lambda level, values, seed, step: level + values["x"])
    space = {"x": {"grid": [5, 1, 3, 2, 4, 2.5]}}
    scheduler = {"kind": "median", "startup_trials": 3}
    one = world(tmp_path, num_groups=1, space=space, seeds=[0], scheduler=scheduler, toy=toy).go()
    # 5, 1 and 3 finish; 2 is below their median of 3, 4 above it, 2.5 below the median of 5, 1, 3, 4
    assert [trial.status for trial in one.trials] == ["finished"] * 3 + ["stopped", "finished", "stopped"]
    assert one.trials[3].runs[0].step == 2


def test_less_may_be_better(tmp_path):
    toy = Toy(update=lambda level, values, seed, step: level + values["x"])
    scheduler = {"kind": "median", "startup_trials": 2}
    space = {"x": {"grid": [1, 2, 5, 0.5]}}
    one = world(tmp_path, num_groups=1, space=space, seeds=[0], scheduler=scheduler, toy=toy, direction="min").go()
    assert [trial.status for trial in one.trials] == ["finished", "finished", "stopped", "finished"]


# ---- population based training


def test_an_exchange_waits_for_all_and_takes_the_best_to_the_worst(tmp_path):
    for seed in range(6):
        one = world(tmp_path / str(seed), "pbt", seed, num_groups=3)
        most = 0
        while one.groups:
            one.tick()
            reached = {n: max((s for m, _, s in one.updates if m == n), default=0) for n in range(5)}
            farthest = max(reached.values())
            if farthest > 4:
                assert all(run.step >= 4 for trial in one.trials for run in trial.runs)
                most = max(most, farthest)
        assert most == 8
        at_4 = {trial.number: dict(trial.scores)[4] for trial in one.trials}
        order = sorted(at_4, key=at_4.get)
        took = {t.number: t.taken_over[0] for t in one.trials if t.taken_over}
        assert {number: entry["from"] for number, entry in took.items()} == {order[0]: order[-1], order[1]: order[-2]}
        for number, entry in took.items():
            taker, donor = one.trials[number], one.trials[entry["from"]]
            assert entry["step"] == 4
            for key, value in entry["values"].items():
                assert one.sweep.settings.space[key].has(value)
            for run, other in zip(taker.runs, donor.runs, strict=True):
                assert run.curve[:2] == other.curve[:2]  # its curve goes on from the donor's
                assert run.curve[2:] != other.curve[2:] or entry["values"] == donor.values


def test_pbt_ends_the_same_in_any_order_and_without_deaths_nothing_is_trained_twice(tmp_path):
    outcomes = [world(tmp_path / f"{n} {s}", "pbt", s, num_groups=n).go() for n in (1, 2, 5) for s in range(4)]
    assert all(one.outcome() == outcomes[0].outcome() for one in outcomes)
    assert all(set(one.updates.values()) == {1} for one in outcomes)


def test_pbt_follows_a_schedule_that_no_fixed_setting_has(tmp_path):
    # The best rate is 1 at first and 0.1 at the end; every distance from it costs.
    def update(level, values, seed, step):
        wanted = 10 ** -(step / 64)
        return level + 1 - abs(math.log(values["optim.lr"] / wanted))

    toy = Toy(update=update, steps=64, every=4)
    space = {"optim.lr": {"log_uniform": [0.05, 2]}}
    for sample_seed in range(4):
        common = {"space": space, "num_samples": 8, "seeds": [0], "sample_seed": sample_seed, "toy": toy}
        fixed = world(tmp_path / f"fixed {sample_seed}", **common).go()
        pbt = {"kind": "pbt", "interval_steps": 8, "quantile": 0.25}
        moved = world(tmp_path / f"pbt {sample_seed}", **common, scheduler=pbt).go()
        best = [max(trial.score for trial in one.trials) for one in (fixed, moved)]
        assert best[1] >= best[0]
        assert moved.num_updates == fixed.num_updates


def low_rates_break(at: int):
    def broken(values, seed, step):
        return "boom" if step == at and values["optim.lr"] < 0.5 else None

    return broken


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("last", range(5))
def test_a_trial_that_fails_while_all_others_wait_for_it_lets_them_exchange(tmp_path, last, dies):
    one = world(tmp_path, "pbt", num_groups=0, seeds=[0], retries=0).dispatcher
    jobs = {}
    for name in "abcde":
        one.register(name, 1, [])
        jobs[name] = one.next(name, 1)
    slow = next(name for name, job in jobs.items() if job.number == last)
    for name, job in jobs.items():
        if name != slow:
            assert one.report(job.token, 4, {"score": job.number, "accuracy": job.number}, last=False) == "pause"
            one.left_off(job.token, "pause")
            assert one.next(name, 1) == "wait"
    if dies:
        one.register(slow, 2, [])
    else:
        one.raised(jobs[slow].token, 0, "boom", connection=False, ends_group=False)
    assert one.trials[last].status == "failed"
    # four are left: the worst of them takes over, its donor waits for it, the others go on
    (taker,) = (trial for trial in one.trials.values() if trial.taken_over)
    going = [one.next(name, 1) for name in jobs if name != slow]
    donor = taker.taken_over[0]["from"]
    assert sorted(job.number for job in going if job != "wait") == sorted({0, 1, 2, 3, 4} - {last, donor})
    assert [Path(job.copy_from).parts[-2:] for job in going if job != "wait" and job.copy_from] == [
        (f"{donor:04d}", "seed_0")
    ]


def test_small_populations_exchange_one(tmp_path):
    one = world(tmp_path, "pbt", num_samples=2, scheduler={"kind": "pbt", "interval_steps": 4, "quantile": 0.1}).go()
    assert [len(trial.taken_over) for trial in one.trials].count(1) == 1


def test_an_exchange_that_was_written_half_is_completed(tmp_path):
    calm = world(tmp_path / "calm", "pbt").go()
    for written in range(1, 5):
        folder = tmp_path / str(written)
        one = world(folder, "pbt")
        while not any(trial.stage for trial in one.trials):
            before = {path: path.read_text() for path in folder.glob("trials/*/trial.json")}
            one.tick()
        # The driver was killed when it had written the journals of so many trials.
        for path in sorted(before)[written:]:
            path.write_text(before[path])
        for trial in load_trials(folder):  # the one that came last had left off; the tick wrote that in the same go
            for run in trial.runs:
                if run.status == "running":
                    run.status = "paused"
                save_trial(folder, trial)
        one.begin()
        assert one.go().outcome() == calm.outcome()


def test_a_trial_tried_again_after_others_went_on_catches_up_without_taking_over(tmp_path):
    one = world(tmp_path, "pbt", toy=Toy(broken=low_rates_break(3))).go()
    failed = [trial.number for trial in one.trials if trial.status == "failed"]
    assert 0 < len(failed) < 5
    for trial in load_trials(tmp_path):
        if trial.status == "failed":  # as `earlier_trials` does
            trial.status, trial.reason = "open", None
            for run in trial.runs:
                run.status = "ready"
            save_trial(tmp_path, trial)
    one.toy = Toy()
    one.begin()
    one.go()
    assert {trial.status for trial in one.trials} == {"finished"}
    # those that are tried again may exchange among themselves, but what they are given is never further than they are
    assert all(entry["from"] in failed for number in failed for entry in one.trials[number].taken_over)


# ---- budgets


@pytest.mark.parametrize(
    ("kind", "budget"),
    [
        (kind, budget)
        for kind in SCHEDULERS
        for budget in ({"hours": 60 / 3600}, {"device_hours": 40 / 3600}, {"trials": 2})
        if (kind, *budget) != ("pbt", "trials")  # another number of trials is another population
    ],
)
def test_a_budget_ends_the_start_and_a_larger_one_goes_on_to_the_same_end(tmp_path, kind, budget):
    num_groups = 1 if kind in ORDER_MATTERS else 3
    calm = world(tmp_path / "calm", kind, num_groups=num_groups).go().outcome()
    one = world(tmp_path / "cut", kind, num_groups=num_groups, budget=budget).go()
    (limit,) = budget
    assert one.dispatcher.done
    assert one.dispatcher.budget.exhausted.startswith(f"budget.{limit} is ")
    assert not one.at
    assert len(one.trials) < len(calm) or any(not trial.over for trial in one.trials)
    assert all(run.status != "running" for trial in one.trials for run in trial.runs)
    if limit == "trials":
        assert [trial.over for trial in one.trials] == [True, True]
    again = world(tmp_path / "cut", kind, num_groups=num_groups)
    again.disk = one.disk
    assert again.go().outcome() == calm
    assert again.dispatcher.budget.exhausted is None


def test_when_the_hours_are_over_nothing_starts_and_runs_pause_at_their_next_evaluation(tmp_path):
    one = world(tmp_path, num_groups=2, budget={"hours": 1})
    one.go(ticks=10)
    running = len(one.at)
    assert running == 2
    one.clock += 3601
    updates = one.num_updates
    one.go()
    assert one.num_updates - updates <= running * 2  # evaluations are two updates apart
    assert one.dispatcher.budget.exhausted == "budget.hours is 1"
    assert [run.status for trial in one.trials for run in trial.runs].count("ready") == 2


def test_a_sweep_that_ended_in_time_was_not_ended_by_its_budget(tmp_path):
    one = world(tmp_path, budget={"hours": 1, "device_hours": 1, "trials": 6}).go()
    one.clock += 10_000
    assert one.dispatcher.budget.exhausted is None
    assert one.dispatcher.done


def test_device_hours_count_workers_and_earlier_starts(tmp_path):
    one = world(tmp_path, num_groups=0, workers_per_trial=4)
    one.dispatcher.register("a", 1, [])
    job = one.dispatcher.next("a", 1)
    one.clock += 1800
    assert one.dispatcher.budget.device_hours == 2
    one.dispatcher.report(job.token, 2, {"accuracy": 0.1, "score": 0.1}, last=False)
    one.dispatcher.left_off(job.token, "pause")
    assert one.dispatcher.budget.device_hours == 2
    one.begin()
    assert one.dispatcher.budget.device_hours == 2


# ---- scores


def test_a_metric_that_runs_do_not_report_fails_with_those_they_do(tmp_path):
    one = world(tmp_path, metric="dev/f1").go()
    assert {trial.status for trial in one.trials} == {"failed"}
    assert one.trials[0].reason == "metric is dev/f1, but its runs report dev/accuracy, dev/score. Use one of these."
    assert one.num_updates <= 6 * 2 * 2


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_scores_that_are_no_numbers_fail_or_stop_a_trial_and_nothing_hangs(tmp_path, kind):
    def update(level, values, seed, step):
        return math.nan if next(iter(values.values())) < 0.25 else level + 1

    one = world(tmp_path, kind, toy=Toy(update=update)).go()
    assert one.dispatcher.done
    for trial in one.trials:
        assert trial.score is None or math.isfinite(trial.score)
        if trial.status == "failed":
            assert (
                trial.reason
                == "dev/score is "
                + ", ".join(f"nan with seed {run.seed}" for run in trial.runs)
                + ", which cannot be compared."
            )
    assert any(trial.status == "finished" for trial in one.trials)
    assert any(trial.status != "finished" for trial in one.trials) or kind == "pbt"


# ---- what the driver is asked


def test_the_run_of_a_group_is_asked_for_once_and_nothing_starts_before_it_is_there(tmp_path):
    one = world(tmp_path, num_groups=0, group_runs=True).dispatcher
    one.register("a", 1, [])
    assert one.next("a", 1) == "wait"
    assert one.next("a", 1) == "wait"
    assert [(event.kind, event.trial) for event in one.events] == [("opened", 0)]
    one.opened(0, "mlflow-run")
    one.opened(0, "another")
    job = one.next("a", 1)
    assert job.parent_run_id == "mlflow-run"
    assert load_trials(tmp_path)[0].parent_run_id == "mlflow-run"


@pytest.mark.parametrize("kind", ["none", "asha with seeds", "median", "pbt"])
def test_every_group_is_opened_once_also_over_restarts(tmp_path, kind):
    for seed in range(4):
        one = world(tmp_path / str(seed), kind, seed, group_runs=True)
        for _ in range(2):
            one.go(ticks=one.random.randrange(20, 120))
            one.tick()
            one.begin()
        one.go()
        # asked again only where a start ended before the answer
        assert set(one.opened) == {trial.number for trial in one.trials}
        assert sum(one.opened.values()) <= len(one.trials) + 2 * len(one.trials) * (kind == "pbt")
        assert {trial.parent_run_id for trial in one.trials} == {f"run-{trial.number}" for trial in one.trials}


def test_a_trial_of_one_seed_is_the_sweeps_own_child_and_so_is_a_group_that_mlflow_does_not_take(tmp_path):
    one = world(tmp_path / "one", "asha", num_groups=0, group_runs=True).dispatcher
    one.register("a", 1, [])
    assert one.next("a", 1).parent_run_id == "sweep"
    other = world(tmp_path / "group", num_groups=0, group_runs=True).dispatcher
    other.register("a", 1, [])
    other.next("a", 1)
    other.opened(0, None)
    assert other.next("a", 1).parent_run_id == "sweep"


def test_jobs_carry_what_a_run_needs(tmp_path):
    one = world(tmp_path, num_groups=0, name="mine").dispatcher
    one.register("a", 1, [])
    job = one.next("a", 1)
    assert job.config == {"values": {"lr": 0.1, "depth": 1}, "seed": 0, "name": "0000/seed_0"}
    assert job.tags == {"sweep": "mine", "sweep.trial": "0", "sweep.kind": "seed", "recipe": "x"}
    assert job.copy_from is None


# ---- resuming another sweep


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"space": {**GRID, "lr": {"grid": [0.1, 0.3, 0.25]}}}, False),
        ({"space": {"depth": GRID["depth"], "lr": GRID["lr"]}}, False),  # the same points in another order
        ({"space": {"lr": GRID["lr"]}}, False),
        ({"space": {**GRID, "lr": {"grid": [0.1, 0.3]}}}, False),  # fewer
        ({"seeds": [0]}, False),
        ({"seeds": [0, 1, 2]}, False),
        ({"retries": 7, "max_concurrent": 2}, True),
    ],
)
def test_another_grid_or_other_seeds_are_refused_on_resume(tmp_path, change, same):
    world(tmp_path).go()
    sweep = toy_sweep(tmp_path, **{**SCHEDULERS["none"], **change})
    if same:
        check_same_sweep(load_trials(tmp_path), sweep)
    else:
        with pytest.raises(ConfigError, match=r"trial \d was lr=.*give another output_dir"):
            check_same_sweep(load_trials(tmp_path), sweep)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"num_samples": 20}, True),
        ({"num_samples": 5}, False),
        ({"space": {"lr": {"uniform": [0, 2]}, "depth": {"integer": [1, 3]}}}, True),
        ({"space": {"lr": {"uniform": [0.9, 1]}, "depth": {"integer": [1, 3]}}}, False),
        ({"space": {"lr": {"uniform": [0, 1]}}}, False),
        ({"space": {"lr": {"uniform": [0, 1]}, "depth": {"integer": [1, 3]}, "more": {"choice": [1]}}}, False),
    ],
)
def test_of_an_optuna_sweep_every_earlier_point_must_be_in_the_space(tmp_path, change, same):
    world(tmp_path, "optuna", num_groups=1).go()
    sweep = toy_sweep(tmp_path, **{**SCHEDULERS["optuna"], **change})
    if same:
        past = load_trials(tmp_path)
        check_same_sweep(past, sweep)
        search = Search(sweep)
        search.restore(past)
        assert Dispatcher(sweep, search, past).done == (sweep.num_trials == len(past))
    else:
        with pytest.raises(ConfigError, match="not what this file plans"):
            check_same_sweep(load_trials(tmp_path), sweep)


def test_more_samples_may_be_added_to_a_random_sweep(tmp_path):
    one = world(tmp_path, "asha", num_groups=1).go()
    sweep = toy_sweep(tmp_path, **{**SCHEDULERS["asha"], "num_samples": 12})
    check_same_sweep(load_trials(tmp_path), sweep)
    more = World(sweep, num_groups=1, disk=one.disk).go()
    assert len(more.trials) == 12
    assert more.outcome()[:9] == one.outcome()


def test_a_space_with_fewer_points_than_trials_ends_when_all_were_tried(tmp_path):
    space = {"lr": {"choice": [0.1, 0.2, 0.3]}, "depth": {"integer": [1, 2]}}
    one = world(tmp_path, "optuna", num_groups=2, space=space, num_samples=50).go()
    assert len(one.trials) == 6
    assert one.dispatcher.done
    assert any("every point of the space was tried" in event.text for event in one.dispatcher.events)
