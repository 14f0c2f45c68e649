"""What MLflow calls for an artifact: `mlflow.pyfunc.load_model("models:/NAME@champion").predict(rows)`.

See `mlmodel.py` for the files by which MLflow finds it.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from infoprompt.artifact import Artifact, Prediction
from infoprompt.config import ConfigError
from infoprompt.data.rows import Example, example_from_mapping
from infoprompt.mlmodel import LOADING, PARAMS

if TYPE_CHECKING:
    import pandas


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> "PromptModel":
    """Load an artifact's folder; MLflow looks for a function of this name.

    Args:
        path: where MLflow has put the artifact.
        model_config: see `mlmodel.LOADING`.
    Raises:
        ArtifactError, ConfigError: see `Artifact.from_pretrained`.
    """
    asked = {**LOADING, **(model_config or {})}
    return PromptModel(Artifact.from_pretrained(path, backbone=asked["backbone"] or None, device=asked["device"]))


class PromptModel:
    """An artifact that reads and writes tables."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> "pandas.DataFrame":
        """What is predicted for each row: `label`, `probability` of the label and `probabilities` of all classes; the
        `tags` of words; the `value` of a regression.

        Args:
            model_input: a DataFrame, or a list of objects, with the columns of the signature (others are not read); a
                list of texts, a Series or a DataFrame of one column, where a text is all that is read.
            params: see `mlmodel.PARAMS`.
        Raises:
            ConfigError: a row lacks a column, or has a value of another kind; the row is named.
            ValueError: a row is of another kind than those that the prompt was trained on.
        """
        asked = {**PARAMS, **(params or {})}
        if asked["batch_size"] < 1 or asked["top"] < 0:
            raise ConfigError(f"params are {asked}, but batch_size must be at least 1, and top at least 0 (0: all).")
        index, rows = _rows(model_input)
        read = [self._example(row, f"row {number}") for number, row in enumerate(rows, 1)]
        found = self.artifact.predict(read, int(asked["batch_size"]))
        import pandas

        table = [_columns(prediction, int(asked["top"])) for prediction in found]
        return pandas.DataFrame(table, index=index)

    def _example(self, row: Any, where: str) -> Example:
        if isinstance(row, str):
            words = tuple(row.split()) if self.artifact.task.kind == "tags" else None
            if not row.strip():
                raise ConfigError(f"The text of {where} is empty. Remove the row, or give it a text.")
            example = Example(text=row, words=words)
        elif isinstance(row, Mapping):
            example = example_from_mapping(_plain(row), {}, labelled=False, where=where)
        else:
            raise ConfigError(f"{where} is {row!r}, but must be a text, or an object with the columns of a row.")
        self.artifact.check(example, where)
        return example


def _rows(given: Any) -> tuple[Any, Iterable[Any]]:
    """The index of the result, and the rows: texts, or columns to values."""
    import pandas

    if isinstance(given, pandas.DataFrame):
        if given.shape[1] == 1 and pandas.api.types.is_string_dtype(given.iloc[:, 0]):
            return given.index, given.iloc[:, 0].tolist()
        return given.index, given.to_dict("records")
    if isinstance(given, pandas.Series):
        return given.index, given.tolist()
    if isinstance(given, Mapping) and _holds_columns(given):
        return _rows(pandas.DataFrame(dict(given)))
    if isinstance(given, (str, Mapping)):
        given = [given]
    rows = given.tolist() if hasattr(given, "tolist") else [*given]  # numpy's strings become Python's
    return None, [row[0] if isinstance(row, list) and len(row) == 1 else row for row in rows]


def _holds_columns(given: Mapping[str, Any]) -> bool:
    """Whether each value is a column, not a cell; the words of one row are a cell."""
    columns = [value.tolist() if hasattr(value, "tolist") else value for value in given.values()]
    one_row = "words" in given and all(isinstance(word, str) for word in given["words"])
    return bool(columns) and not one_row and all(isinstance(column, (list, tuple)) for column in columns)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Lists for arrays, Python's numbers for numpy's; a cell without a value is left out."""
    import pandas

    plain = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in row.items()}
    return {name: value for name, value in plain.items() if isinstance(value, (list, Mapping)) or pandas.notna(value)}


def _columns(prediction: Prediction, top: int) -> dict[str, Any]:
    if prediction.value is not None:
        return {"value": prediction.value}
    if prediction.tags is not None:
        return {"label": prediction.label, "tags": [*prediction.tags]}
    ranked = sorted(prediction.probabilities.items(), key=lambda item: -item[1])
    told = dict(ranked[:top]) if top else prediction.probabilities
    return {"label": prediction.label, "probability": ranked[0][1], "probabilities": told}
