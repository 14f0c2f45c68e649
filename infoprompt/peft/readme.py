"""The README.md of an exported prompt: Python that loads it with PEFT and computes our scores, and what differs."""

from infoprompt.config import PromptSettings, RunConfig
from infoprompt.data.tasks import Task
from infoprompt.model.backbone.load import Backbone
from infoprompt.model.heads.kind import head_kind
from infoprompt.peft.host import Host

_POOLED = {
    "mean": "({0} * mask).sum(1) / mask.sum(1)",
    "first": "{0}[:, 0]",
    "last": "{0}[:, -1]",
    "mask": '{0}[inputs["input_ids"] == tokenizer.mask_token_id]',
}


def readme(config: RunConfig, task: Task, backbone: Backbone, host: Host, differences: list[str], base: str) -> str:
    """The whole text.

    Args:
        config: of the artifact.
        task: of the artifact.
        backbone: what it was trained on.
        host: what it is loaded into.
        differences: why the scores are not equal.
        base: hub name or folder of the backbone.
    """
    equal = "\n".join(f"- {text}" for text in differences) or "PEFT's scores are those of the artifact, to rounding."
    labels = "\n".join(f"{index}. {label}: {text}" for index, (label, text) in enumerate(_labels(task)))
    return f"""---
library_name: peft
base_model: {base}
tags: [prompt-tuning, soft-prompt, infoprompt]
---
# A soft prompt for {task.name}, for PEFT

Written by infoprompt. `infoprompt.json` has the config that it was trained with.

```python
{code(config, task, backbone, host, base)}
```

{_notes(config, host)}

## Differences

{equal}

## Labels, in the order of the scores

{labels}
"""


def code(config: RunConfig, task: Task, backbone: Backbone, host: Host, base: str) -> str:
    """Python that loads the folder over its model, and reads `scores` of one text."""
    assert isinstance(config.prompt, PromptSettings)
    prefix = config.prompt.kind == "prefix"
    return "\n".join(
        [
            "import torch",
            "from peft import PeftModel",
            *(["from safetensors.torch import load_file"] if _head_aside(config, host) else []),
            f"from transformers import AutoTokenizer, {host.auto_class}",
            "",
            f'tokenizer = AutoTokenizer.from_pretrained("{base}")',
            *_model(task, backbone, host, base),
            'model = PeftModel.from_pretrained(model, "this folder").eval()',
            *_inputs(config, task, backbone),
            *(
                ["inputs.pop('token_type_ids', None)  # PEFT drops them here"]
                if _drops_segments(backbone, host)
                else []
            ),
            *(_positions(config.prompt.length, backbone.position_offset) if prefix else []),
            "with torch.inference_mode():",
            *[f"    {line}" for line in _scores(config, task, host, 0 if prefix else config.prompt.length)],
        ]
    )


def _model(task: Task, backbone: Backbone, host: Host, base: str) -> list[str]:
    num_labels = max(len(task.labels), 1) if task.kind != "choice" else 1
    given = f", num_labels={num_labels}" if host.head else ""
    lines = [
        f'model = {host.auto_class}.from_pretrained("{base}"{given}){".get_encoder()" if host.encoder_only else ""}'
    ]
    if host.pools:  # the class has no bias of its own
        lines.append(f"model.{host.head} = torch.nn.Linear({backbone.hidden_size}, {num_labels})  # with a bias")
    return lines


def _inputs(config: RunConfig, task: Task, backbone: Backbone) -> list[str]:
    mask = " + tokenizer.mask_token" if config.head.pooling == "mask" else ""
    if task.kind == "tags":
        return ['inputs = tokenizer([["some", "words"]], is_split_into_words=True, return_tensors="pt")']
    if task.kind in ("pair", "answer") and backbone.kind == "decoder":
        return ['inputs = tokenizer(["some text" + chr(10) + "its second text"], return_tensors="pt")']
    second = ', ["its second text"]' if task.kind in ("pair", "choice", "answer") else ""
    return [f'inputs = tokenizer(["some text"{mask}]{second}, return_tensors="pt")']


def _positions(length: int, offset: int) -> list[str]:
    # PEFT counts a prefix as positions; with these ids, to which it adds its length, the text keeps its own.
    return [
        'count = inputs["input_ids"].shape[1]',
        f'inputs["position_ids"] = torch.arange(count)[None] + {offset} - {length}  # PEFT adds {length}',
    ]


def _scores(config: RunConfig, task: Task, host: Host, skipped: int) -> list[str]:
    if host.pools:
        return ["scores = model(**inputs).logits"]
    after = f"[:, {skipped}:]" if skipped else ""
    output = "last_hidden_state" if _head_aside(config, host) else "logits"
    name = "states" if output == "last_hidden_state" else "token_scores"
    lines = [f"{name} = model(**inputs).{output}{after}", 'mask = inputs["attention_mask"][..., None]']
    if task.kind == "tags" and host.head:
        return [lines[0].replace(name, "scores", 1) + "  # a word has its first token's"]
    if config.head.pooling == "entities" or task.kind == "tags":
        lines.append(f"pooled = ...  # of {name}, as the artifact pools: {config.head.pooling}")
    elif config.head.kind == "text":
        lines.append("scores = ...  # log probability of each label text behind the input")
        return lines
    else:
        target = "scores" if host.head else "pooled"
        lines.append(f"{target} = {_POOLED[str(config.head.pooling)].format(name)}")
    if _head_aside(config, host):
        lines += [
            'head = load_file("this folder/head.safetensors")',
            'scores = pooled @ head["weight"].T + head["bias"]',
        ]
    if config.head.kind == "label_words":
        texts = [f" {text}" for text in task.label_texts]
        lines.append(f'words = tokenizer({texts}, add_special_tokens=False)["input_ids"]')
        lines.append("scores = torch.stack([pooled[:, ids].mean(1) for ids in words], 1)")
    return lines


def _drops_segments(backbone: Backbone, host: Host) -> bool:
    return host.task_type == "FEATURE_EXTRACTION" and backbone.family.segments


def _head_aside(config: RunConfig, host: Host) -> bool:
    return host.head is None and not head_kind(config.head.kind).lm_head


def _labels(task: Task) -> list[tuple[str, str]]:
    return list(zip(task.labels, task.label_texts, strict=True)) or [("value", f"{task.name}, scaled to 0 ... 1")]


def _notes(config: RunConfig, host: Host) -> str:
    if host.pools and config.prompt.kind == "prefix":
        return "Pad several texts on the right, with `pad_token_id` set in the model's config: the class looks for it."
    if host.pools or config.head.pooling == "last":
        return "One text at a time, or texts of one length: this reads the last position, padding or not."
    return "Pad several texts on the right (`mask` hides the padding from the mean)."
