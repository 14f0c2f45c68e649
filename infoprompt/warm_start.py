"""Trains a linear head alone, on kept states of the plain texts, before the prompt joins.

Source: measured in EXPERIMENTS 2026-11-29; without it prompt and label's term can go astray together.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from infoprompt.config import RunConfig
from infoprompt.data.loader import TrainLoader
from infoprompt.data.task import Task
from infoprompt.engine.adamw import build_optimizer, trained_parameters
from infoprompt.model.heads.linear import LinearHead
from infoprompt.objective.encoding import Encoding
from infoprompt.objective.label_information import LabelInformation, StartAnchor
from infoprompt.objective.total import information_objective
from infoprompt.progress import Progress
from infoprompt.schedule import learning_rate
from infoprompt.settings.head import LinearSettings


def warm_started(
    config: RunConfig, task: Task, loader: TrainLoader, start: Mapping[str, Tensor], class_weight_C: Tensor | None
) -> dict[str, Tensor]:
    """The head's parameters after `head.warm_start_steps` updates; every rank trains it whole, so all get the same.

    Args:
        config: of the run.
        task: what is scored.
        loader: the run's, whose rows and texts without labels have their kept states.
        start: the head's parameters.
        class_weight_C: see `data.class_weights`.
    """
    assert isinstance(config.head, LinearSettings)
    steps = config.head.warm_start_steps
    optim = config.optim.model_copy(update={"lr": config.head.warm_start_lr})
    objective = config.objective.model_copy(update={"head_weight": 0, "representation_weight": 0, "kl_weight": 0})
    weight_CD = start["linear.weight"]
    head = LinearHead(weight_CD.shape[1], weight_CD.shape[0])
    head.load_state_dict(dict(start))
    label = LabelInformation(objective, task.labels, alone=True) if objective.label_form != "off" else None
    anchor = StartAnchor() if objective.start_anchor > 0 else None
    if anchor is not None:
        anchor.start(weight_CD, len(loader.rows))
    pool = None
    if loader.pool is not None:
        pool = replace(loader.pool, first_step=round(objective.label_start * steps))
    alone = replace(loader, accumulation=1, rank=0, world_size=1, draw=None, pool=pool)
    optimizer = build_optimizer([trained_parameters(head)], [optim])
    progress = Progress(loader.steps_per_epoch, steps)
    while not progress.done:
        optimizer.param_groups[0]["lr"] = learning_rate(optim, progress)
        (batch,) = alone.micro_batches(progress.step)
        assert batch.pooled_BD is not None
        if label is not None and pool is not None and pool.first_step == progress.step and label.target_C is None:
            assert pool.rows.pooled_MD is not None
            with torch.no_grad():
                label.estimate_target(head.linear(pool.rows.pooled_MD[pool.kept]).softmax(1).mean(0))
        logits_BC = head.linear(batch.pooled_BD)
        count = batch.num_labelled
        encoding = Encoding(
            logits_BC[:count],
            batch.pooled_BD[:count],
            label=None if label is None or not batch.num_unlabelled else label(logits_BC[count:]),
            anchor=None if anchor is None else anchor(head.linear.weight),
        )
        information_objective(encoding, batch, objective, progress, class_weight_C).total.backward()
        if optim.max_grad_norm > 0:
            nn.utils.clip_grad_norm_(head.parameters(), optim.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        progress = progress.after(config.data.batch_size)
    return {name: value.detach() for name, value in head.state_dict().items()}
