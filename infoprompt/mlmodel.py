"""What makes an artifact a model that MLflow loads by itself: `MLmodel` and the small files that it names.

Written without MLflow, so that an artifact has them wherever it was trained. `infoprompt.pyfunc` is what MLflow calls.
The backbone is not copied: it is loaded from where training found it, or from `model_config={"backbone": ...}`.
"""

import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from infoprompt.data.task import Task

MLMODEL = "MLmodel"
REQUIREMENTS = "requirements.txt"
ENVIRONMENT = "python_env.yaml"
EXAMPLE = "input_example.json"
FILES = (MLMODEL, REQUIREMENTS, ENVIRONMENT, EXAMPLE)

LOADER = "infoprompt.pyfunc"
PACKAGES = ("infoprompt", "torch", "transformers", "mlflow")

PARAMS: dict[str, int] = {"batch_size": 64, "top": 0}
"""What `predict(..., params=...)` takes: rows per pass, and how many of the most probable classes are told (0: all)."""
LOADING: dict[str, str] = {"backbone": "", "device": "auto"}
"""What `load_model(..., model_config=...)` takes: where the backbone is now, if not where it was in training, and
`auto`, `cpu` or `cuda`."""

_STRINGS = {"type": "array", "items": {"type": "string"}}
_FIRE = "The fire was caused by a cable."


def write_mlmodel(folder: Path, task: Task) -> None:
    """Write the files into an artifact's folder.

    Args:
        folder: the artifact's, not yet closed by its manifest.
        task: what the artifact predicts.
    """
    flavor = {
        "loader_module": LOADER,
        "python_version": platform.python_version(),
        "env": {"virtualenv": ENVIRONMENT},
        "config": LOADING,
    }
    model = {
        "flavors": {"python_function": flavor},
        "signature": {name: json.dumps(columns) for name, columns in signature(task).items()},
        # MLflow passes the rows on as they come, so a list of texts will do; what does not fit is told by its row
        "is_signature_from_type_hint": True,
        "saved_input_example_info": {"artifact_path": EXAMPLE, "type": "dataframe", "pandas_orient": "split"},
        "metadata": {"task": task.name, "kind": task.kind},
    }
    row = example_row(task)
    _write(folder / MLMODEL, yaml.safe_dump(model, sort_keys=False, allow_unicode=True))
    _write(folder / EXAMPLE, json.dumps({"columns": [*row], "data": [[*row.values()]]}, ensure_ascii=False))
    _write(folder / REQUIREMENTS, "".join(f"{requirement}\n" for requirement in _requirements()))
    environment = {"python": platform.python_version(), "dependencies": [f"-r {REQUIREMENTS}"]}
    _write(folder / ENVIRONMENT, yaml.safe_dump(environment, sort_keys=False))


def signature(task: Task) -> dict[str, list[dict[str, Any]]]:
    """Columns that are read and written, and params, each as MLflow describes it."""
    optional = {"pair"} if task.kind in ("answer", "regression") else set()
    inputs = [
        {**_type(value), "name": name, "required": name not in optional} for name, value in example_row(task).items()
    ]
    outputs: list[dict[str, Any]] = [{"type": "string", "name": "label", "required": True}]
    if task.kind == "tags":
        outputs.append({**_STRINGS, "name": "tags", "required": True})
    elif task.kind == "regression":
        outputs = [{"type": "double", "name": "value", "required": True}]
    else:
        outputs.append({"type": "double", "name": "probability", "required": True})
        outputs.append({"type": "map", "values": {"type": "double"}, "name": "probabilities", "required": True})
    params = [{"type": "long", "name": name, "default": value, "shape": None} for name, value in PARAMS.items()]
    return {"inputs": inputs, "outputs": outputs, "params": params}


def example_row(task: Task) -> dict[str, Any]:
    """A row of the task's kind, made up."""
    match task.kind:
        case "pair" | "answer" | "regression":
            return {"text": "A cable burns.", "pair": "There is a fire."}
        case "relation":
            return {"text": _FIRE, "head_start": 4, "head_end": 8, "tail_start": 25, "tail_end": 30}
        case "span":
            return {"text": _FIRE, "span_start": 4, "span_end": 8}
        case "tags":
            return {"words": _FIRE.rstrip(".").split()}
        case "choice":
            choices = [f"It was answer {number}." for number in range(1, task.num_classes + 1)]
            return {"text": "What was it?", "choices": choices}
        case _:
            return {"text": _FIRE}


def _type(value: object) -> Mapping[str, Any]:
    return _STRINGS if isinstance(value, list) else {"type": "long" if isinstance(value, int) else "string"}


def _requirements() -> list[str]:
    """The packages that predict, in the versions that are installed here."""
    found = []
    for package in PACKAGES:
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
        found.append(f"{package}=={version.partition('+')[0]}")  # a build's own mark, as +cpu, is on no index
    return found


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
