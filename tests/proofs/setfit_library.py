"""The SetFit library itself on the rows of a run, as predictions that `evaluation.predictions` scores.

    python -m venv setfit && setfit/bin/pip install setfit==1.2.0
    INFOPROMPT_DATA=/path/to/the/data python tests/proofs/setfit_library.py setfit/bin/python
    infoprompt study configs/studies/setfit_library.yaml

AG News, 8 rows a class, MiniLM, SetFit's own defaults: 40 pairs a row, an epoch of batches of 16, a rate of 2e-5, and a
logistic regression. Two minutes for each seed. The library needs an environment of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def train(rows_file: str, output_file: str, seed: int) -> None:
    """Train and predict, in the environment that has SetFit."""
    import torch
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    torch.set_num_threads(1)
    given = json.loads(Path(rows_file).read_text(encoding="utf-8"))
    names = sorted({label for _, label in given["train"]})
    columns = zip(*given["train"], strict=True)
    texts, labels = next(columns), [names.index(label) for label in next(columns)]
    model = SetFitModel.from_pretrained(given["backbone"])
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder, batch_size=16, num_iterations=20, num_epochs=1, seed=seed, report_to="none", save_strategy="no"
        )
        data = Dataset.from_dict({"text": list(texts), "label": labels})
        Trainer(model=model, args=settings, train_dataset=data).train()
    with open(output_file, "w", encoding="utf-8") as stream:
        for part in ("dev", "test"):
            for index in model.predict([text for text, _ in given[part]]):
                stream.write(json.dumps({"label": names[int(index)], "part": part}) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a file of predictions for each seed; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", help="the interpreter that has SetFit")
    parser.add_argument("--seeds", type=int, nargs="+", default=[20, 21, 22])
    parser.add_argument("--output", type=Path, default=Path("predictions"))
    given = parser.parse_args(arguments)
    if "INFOPROMPT_DATA" not in os.environ:
        print("INFOPROMPT_DATA is not set, but must name the folder that has ag_news. Set it.", file=sys.stderr)
        return 2
    from infoprompt.config import load_config
    from infoprompt.data.splits import load_splits
    from infoprompt.embedded import backbone_source

    given.output.mkdir(parents=True, exist_ok=True)
    for seed in given.seeds:
        settings = ["data.task=ag_news", "data.few_shot.per_class=8", f"seed={seed}"]
        splits = load_splits(load_config(ROOT / "configs" / "recipes" / "head_only.yaml", settings).data, seed)
        parts = {"train": splits.train, "dev": splits.validation, "test": splits.test}
        rows = {part: [(row.text, row.label) for row in examples] for part, examples in parts.items()}
        with tempfile.TemporaryDirectory() as folder:
            rows_file = Path(folder) / "rows.json"
            content = {**rows, "backbone": backbone_source("minilm")}
            rows_file.write_text(json.dumps(content), encoding="utf-8")
            output = given.output / f"ag_news_seed_{seed}.jsonl"
            child = "import sys; sys.path.insert(0, sys.argv[1]); from setfit_library import train; "
            child += "train(sys.argv[2], sys.argv[3], int(sys.argv[4]))"
            command = [given.python, "-c", child, str(Path(__file__).parent), str(rows_file), str(output), str(seed)]
            subprocess.run(command, check=True)
        print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
