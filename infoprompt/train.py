"""One run: build, train, choose the best state on dev, report it on test, save the artifact."""

import itertools
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Literal, NoReturn

from torch import Tensor

from infoprompt.bar import ProgressBar
from infoprompt.build_setup import EngineOf, build_own_engine, build_setup
from infoprompt.config import RunConfig, dump_config
from infoprompt.data.rows import collect_examples
from infoprompt.data.splits import Splits, load_splits
from infoprompt.engine.engine import partitions_weights
from infoprompt.engine.interface import SeededDropout
from infoprompt.engine.pack import Asking, Pack, alone, forward, step
from infoprompt.engine.ranks import start_ranks
from infoprompt.engine.watch import watched
from infoprompt.finite import FiniteUpdates
from infoprompt.fitting import fit_head
from infoprompt.metrics import why_undefined
from infoprompt.mirror import check_new_mirror, mirrored
from infoprompt.model.backbone.cache import forget
from infoprompt.nodes import check_folder, check_software
from infoprompt.objective.terms import LossTerms, mean_metrics
from infoprompt.objective.total import information_objective
from infoprompt.output import claimed_output_dir, on_first, write_first_file
from infoprompt.progress import Decision, LeftOff, Progress, Report, due
from infoprompt.result import RunResult, finish
from infoprompt.schedule import learning_rate
from infoprompt.setup import Setup
from infoprompt.stopping import Preempted, Terminated, noting
from infoprompt.tracking import Tracker
from infoprompt.training_state import TrainingState, save_training_state, saved_state, start_training_state

log = logging.getLogger(__name__)


def run(
    config: RunConfig,
    *,
    resume: Literal["auto", "never"] = "never",
    parent_run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    report: Report | None = None,
    show_progress: bool = False,
    splits: Splits | None = None,
    owner: str | None = None,
) -> RunResult:
    """Train one run from a checked config to a saved prompt; every rank calls it.

    Args:
        config: every setting.
        resume: `auto` goes on from the newest resume state in the output folder, if there is one.
        parent_run_id: MLflow run of the sweep that this run is part of.
        tags: further MLflow tags.
        report: called on every rank after each evaluation with progress and dev scores; see `Decision`.
        show_progress: whether the first rank shows a progress bar.
        splits: the rows, where they were read before; read here if not given.
        owner: names the run; a start of the same name takes the output folder over from one that was killed on another
            machine, without waiting for a sign of life.
    Returns:
        The result, also written to `result.json` in the output folder.
    Raises:
        ConfigError: a setting, a file or the data do not fit, another run is writing to the output folder, or none of
            its resume states can be used, or machines differ, or the mirror cannot be used; nothing was trained.
        TrainingStopped: the loss is not finite, the disk is full, or another start has taken the mirror over.
        LeftOff: `report` said not to go on.
        Preempted: a signal told a rank to end while it trained; all have left after the same update.
        RankLost: another rank did not come, or has failed.
    """
    return alone(
        asking_run(
            config,
            resume=resume,
            parent_run_id=parent_run_id,
            tags=tags,
            report=report,
            show_progress=show_progress,
            splits=splits,
            owner=owner,
        )
    )


def asking_run(
    config: RunConfig,
    *,
    resume: Literal["auto", "never"] = "never",
    parent_run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    report: Report | None = None,
    show_progress: bool = False,
    splits: Splits | None = None,
    owner: str | None = None,
    pack: Pack | None = None,
    place: int = 0,
) -> Asking[RunResult]:
    """`run`, which asks for its passes, alone or at a place of a pack."""
    ranks = start_ranks(config.engine) if pack is None else pack.ranks
    engine_of = build_own_engine if pack is None else pack.joined(place)
    output_dir = Path(config.run.output_dir)
    with ExitStack() as around:
        if partitions_weights(config):
            around.push(_forget_parts)
        around.enter_context(watched(ranks, output_dir / "stacks", config.engine.timeout_seconds))
        check_software(ranks)
        if resume == "never":
            check_new_mirror(config, ranks)
        around.enter_context(claimed_output_dir(output_dir, keep=resume == "auto", ranks=ranks, owner=owner))
        check_folder(ranks, output_dir, config.engine.timeout_seconds)
        mirror = around.enter_context(mirrored(config, ranks, resume=resume == "auto"))
        saved = saved_state(config, ranks) if resume == "auto" else None
        splits = splits or load_splits(config.data, config.data_seed)
        setup = build_setup(config, ranks, splits, engine_of)
        state, trained = start_training_state(setup, saved), False
        state.mirror = mirror
        on_first(ranks, lambda: write_first_file(output_dir / "config.yaml", dump_config(config)))
        try:
            with recorded(setup, state, parent_run_id, tags or {}, resume=resume, resumed=saved is not None) as tracker:
                with ProgressBar(show_progress and ranks.is_first, config.run_name, state.progress) as bar, noting():
                    yield from train(setup, state, tracker, bar, report)
                    if config.run.final_on_all:
                        yield from train_on_all(setup, splits, state, engine_of)
                    ranks.barrier()  # agrees on a signal that came since the last update
                    if ranks.wishes.leave:
                        leave(setup, state, ranks.wishes.leave)
                trained = True
                return (yield from finish(setup, state, tracker))
        except Terminated as told:
            if isinstance(told, Preempted):
                ranks.barrier()  # a launcher ends the others as soon as one has left
            elif trained:
                raise _preempted(setup, state, told.number) from None
            raise


def _forget_parts(kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
    """What has failed may have left parts of the backbone on their way; the next run shall not find them."""
    if kind is not None:
        forget()


@contextmanager
def recorded(
    setup: Setup,
    state: TrainingState,
    parent_run_id: str | None,
    tags: Mapping[str, str],
    *,
    resume: Literal["auto", "never"],
    resumed: bool,
) -> Iterator[Tracker]:
    """The run in MLflow while the body trains it; how the body ends is how the run does."""

    def open_tracker() -> Tracker:
        return Tracker.open(
            setup.config,
            first=setup.ranks.is_first,
            run_id=state.run_id,
            parent_run_id=parent_run_id,
            tags={**setup.tags(), **tags},
            last_logged_step=state.progress.step if resumed else -1,
            started_again=resume == "auto",
        )

    tracker = on_first(setup.ranks, open_tracker) or open_tracker()
    state.run_id = setup.ranks.broadcast_object(tracker.run_id)
    try:
        yield tracker
    except LeftOff as left:
        tracker.close(None if left.decision == "pause" else "FINISHED")
        setup.engine.close()
        raise
    except (Terminated, KeyboardInterrupt):
        tracker.close("KILLED")
        raise
    except BaseException:
        tracker.close("FAILED")
        setup.engine.close()
        raise
    tracker.close()
    setup.engine.close()


def train(
    setup: Setup, state: TrainingState, tracker: Tracker, bar: ProgressBar, report: Report | None
) -> Asking[None]:
    """The training loop; on return `state` holds the best state.

    Raises:
        LeftOff: `report` says so.
        Preempted: a signal told any rank to end.
    """
    config, wishes = setup.config, setup.ranks.wishes
    evaluate_every = config.evaluation.every_steps or setup.train.steps_per_epoch
    save_every = config.checkpoint.every_steps or evaluate_every
    clock, finite = _Clock(state.seconds, config.checkpoint.every_minutes), FiniteUpdates()
    while not state.progress.done and not _out_of_patience(setup, state):
        progress = state.progress
        lr = learning_rate(config.optim, progress)
        setup.engine.set_lr(lr)
        wishes.ask_to_save |= clock.save_due
        parts, norm = yield from _update(setup, progress, finite)
        state.progress = progress = progress.after(config.data.batch_size)
        setup.ranks.place.step = progress.step
        told, save = wishes.leave, wishes.save or due(save_every, progress)  # agreed on in the last `step`
        clock.count(config.data.batch_size)
        if told or save or due(config.tracking.every_steps, progress) or due(evaluate_every, progress):
            finite.look()
        if due(config.tracking.every_steps, progress):
            metrics = {**mean_metrics(parts), "train/grad_norm": float(norm)}
            metrics = {**setup.ranks.mean(metrics), "train/lr": lr, "train/epoch": progress.epoch}
            state.add(metrics)
            tracker.log({**metrics, "train/examples_per_second": clock.rate()}, progress.step)
            bar.update(progress, loss=metrics["train/loss"], rate=clock.rate())
        del parts  # else their graph, though empty, parts the memory that the next pass could take
        bar.update(progress)
        decision: Decision = "go"
        if due(evaluate_every, progress):  # all ranks take part
            decision = yield from _evaluate_dev(setup, state, tracker, bar, report)
        state.seconds = clock.seconds
        if decision == "pause" or (config.checkpoint.enabled and save):  # all ranks take part
            save_training_state(setup, state)
            clock.saved()
        if decision != "go":
            raise LeftOff(decision)
        if told:
            leave(setup, state, told)
    state.seconds = clock.seconds
    if not state.best_state:  # there was no update to make
        yield from _evaluate_dev(setup, state, tracker, bar, report)
        if config.checkpoint.enabled:
            save_training_state(setup, state)


def _update(setup: Setup, progress: Progress, finite: FiniteUpdates) -> Asking[tuple[list[LossTerms], float | Tensor]]:
    """The update after `progress`: the loss of each of its micro-batches, and the gradient's norm."""
    config, engine, pool = setup.config, setup.engine, setup.train.pool
    label = setup.member.label_information
    if label is not None and label.target_C is None and pool is not None and progress.step >= pool.first_step:
        label.estimate_target(setup.class_shares().to(setup.ranks.device))
    setup.member.drawing = SeededDropout(config.seed, progress.step, setup.ranks)
    parts: list[LossTerms] = []
    norm: float | Tensor = 0.0
    for batch in setup.train.micro_batches(progress.step):
        on_device = batch.to(setup.ranks.device)
        encoding = yield from forward(engine, on_device)
        terms = information_objective(encoding, on_device, config.objective, progress, setup.class_weight_C)
        norm = finite.add(progress, terms, (yield from step(engine, terms.total)))
        parts.append(terms)
    return parts, norm


def train_on_all(first: Setup, splits: Splits, state: TrainingState, engine_of: EngineOf) -> Asking[None]:
    """Train once more on training and held-out rows, for as many updates as the chosen state took; it becomes that.

    The rate's course is that of the first time, and so are the texts without labels. No resume state is written
    meanwhile.
    """
    config = first.spelled_out  # the demonstrations are those of the first time
    log.info("Training once more, on %d training and held-out rows.", len(splits.train) + len(splits.validation))
    together = collect_examples(itertools.chain(splits.train, splits.validation))
    rows = replace(splits, train=together, validation=[], notes=(), skipped=())
    if first.train.pool is not None:  # strangers were told by held-out rows, and there are none now
        rows = replace(rows, unlabelled=replace(splits.unlabelled, used=tuple(first.train.pool.kept.tolist())))
        config = config.model_copy(update={"data": config.data.model_copy(update={"unlabelled_filter": False})})
    setup = build_setup(config, first.ranks, rows, engine_of)
    finite = FiniteUpdates()
    progress = replace(state.progress, steps_per_epoch=setup.train.steps_per_epoch, step=0, examples=0)
    while progress.step < state.best_step:
        setup.engine.set_lr(learning_rate(config.optim, progress))
        yield from _update(setup, progress, finite)
        progress = progress.after(config.data.batch_size)
    finite.look()
    fit_head(setup)
    state.best_state = setup.engine.trained_state()
    setup.engine.close()


def leave(setup: Setup, state: TrainingState, number: int) -> NoReturn:
    """Save the state, where states are saved, and raise `Preempted`; every rank calls it."""
    if setup.config.checkpoint.enabled:
        save_training_state(setup, state)
    raise _preempted(setup, state, number)


def _preempted(setup: Setup, state: TrainingState, number: int) -> Preempted:
    config = setup.config
    return Preempted(number, state.progress.step, config.run.output_dir, saved=config.checkpoint.enabled)


def _evaluate_dev(
    setup: Setup, state: TrainingState, tracker: Tracker, bar: ProgressBar, report: Report | None
) -> Asking[Decision]:
    fit_head(setup)
    evaluated = yield from setup.evaluate(setup.dev)
    scores = evaluated.scores
    undefined = why_undefined(setup.metric, setup.task, evaluated.labels, evaluated.predictions)
    if undefined and undefined not in state.told and setup.ranks.is_first:
        log.info(
            "dev/%s is undefined, for %s; as long as it is, the lower dev loss is better.", setup.metric, undefined
        )
        state.told.add(undefined)
    state.add({f"dev/{name}": value for name, value in scores.items()})
    if _is_better(scores[setup.metric], evaluated.loss if undefined else None, setup, state):
        state.best_scores, state.best_step = scores, state.progress.step
        state.best_loss = evaluated.loss if undefined else None
        state.best_state = setup.engine.trained_state()
        state.evaluations_since_best = 0
    else:
        state.evaluations_since_best += 1
    progress = state.progress
    tracker.log({f"dev/{name}": value for name, value in scores.items()}, progress.step)
    bar.update(progress, score=scores[setup.metric])
    return (report and report(progress, {**scores, "score": scores[setup.metric]})) or "go"


def _is_better(score: float, loss: float | None, setup: Setup, state: TrainingState) -> bool:
    """Whether a state is to be kept; `loss` is given where the score is undefined, and parts two of those."""
    if not state.best_scores or setup.config.evaluation.state == "last":
        return True
    best = state.best_scores[setup.metric]
    if score == best and loss is not None and state.best_loss is not None:
        return loss < state.best_loss
    return score > best


def _out_of_patience(setup: Setup, state: TrainingState) -> bool:
    patience = setup.config.evaluation.patience
    return patience is not None and state.evaluations_since_best >= patience


class _Clock:
    """Seconds of training, the recent rate of examples, and whether it is time to save."""

    def __init__(self, before: float, save_minutes: float | None) -> None:
        self._before = before
        self._save_seconds = 60 * save_minutes if save_minutes else float("inf")
        self._saved = time.monotonic()
        self._start = self._mark = time.monotonic()
        self._examples = 0
        self._rate = 0.0

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._start

    @property
    def save_due(self) -> bool:
        """Whether `checkpoint.every_minutes` are over since a state was saved."""
        return time.monotonic() - self._saved >= self._save_seconds

    def saved(self) -> None:
        """A state was saved."""
        self._saved = time.monotonic()

    def count(self, examples: int) -> None:
        self._examples += examples

    def rate(self) -> float:
        """Examples a second since the last call that saw new ones."""
        now = time.monotonic()
        if self._examples and now > self._mark:
            self._rate = self._examples / (now - self._mark)
            self._mark, self._examples = now, 0
        return self._rate
