"""How `infoprompt predict` shows a prediction."""

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infoprompt.artifact import Prediction
    from infoprompt.data.rows import Example


def as_json(example: "Example", prediction: "Prediction", name: str | None = None) -> str:
    """One JSON object: `label`, `probabilities` (or `tags`, or `value`), and the texts that were read.

    Args:
        example: what was read.
        prediction: what was predicted.
        name: of the artifact, where there are several; shown as `prompt`.
    """
    shown: dict[str, Any] = {"label": prediction.label} if name is None else {"prompt": name, "label": prediction.label}
    if prediction.tags is not None:
        shown["tags"] = list(prediction.tags)
    elif prediction.value is not None:
        shown["value"] = prediction.value
    else:
        shown["probabilities"] = prediction.probabilities
    shown["text"] = example.text
    if example.pair is not None:
        shown["pair"] = example.pair
    if example.words is not None:
        shown["words"] = list(example.words)
    if example.choices is not None:
        shown["choices"] = list(example.choices)
    return json.dumps(shown, ensure_ascii=False)


def as_line(example: "Example", prediction: "Prediction", top: int, name: str | None = None) -> str:
    """Labels with their probabilities, the most probable first, then the texts; with tabs between them.

    Args:
        example: what was read.
        prediction: what was predicted.
        top: labels shown.
        name: of the artifact, where there are several; it comes first.
    """
    ranked = sorted(prediction.probabilities.items(), key=lambda item: -item[1])[:top]
    labels = [f"{label}\t{probability:.3f}" for label, probability in ranked] or [prediction.label]
    pair = [] if example.pair is None else [example.pair]
    first = [] if name is None else [name]
    return "\t".join([*first, *labels, example.text, *pair, *(example.choices or ())])
