"""What wrong texts without labels do to a run: skewed, foreign and few ones, with each form of the label's term.

    INFOPROMPT_DATA=/path/to/the/data python tests/proofs/wrong_pools.py [--seeds 20 21 22 23 24] [--csv FILE]

AG News, 16 rows a class, a head on the kept states of MiniLM, 300 updates. Prints the mean test accuracy and the paired
difference to the run without the term, and writes a row for each run.
"""

import argparse
import csv
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from infoprompt.config import load_config
from infoprompt.data.rows import read_examples
from infoprompt.train import run

ROOT = Path(__file__).parents[2]
SETTINGS = [
    *("data.task=ag_news", "data.few_shot.per_class=16", "engine.kind=plain", "tracking.enabled=false"),
    *("checkpoint.enabled=false", "run.save_artifact=false", "optim.epochs=10000", "optim.max_steps=300"),
    "evaluation.every_steps=300",
]
COLUMNS = ("pool", "form", "seed", "texts", "dev", "test")


def pools(folder: Path, data: Path) -> Iterator[tuple[str, list[str]]]:
    """Name of a pool, and the settings that choose it."""
    train = data / "ag_news" / "train.jsonl.gz"
    examples = read_examples(str(train), {})
    strangers = read_examples(str(ROOT / "infoprompt" / "data" / "sets" / "banking77" / "train.jsonl.gz"), {})

    def write(name: str, texts: Sequence[str]) -> str:
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        return f"data.unlabelled={path}"

    def of(label: str, share: float) -> list[str]:
        texts = [row.text for row in examples if row.label == label]
        return texts[: int(share * len(texts))]

    labels = sorted({str(row.label) for row in examples})
    skewed = [text for index, label in enumerate(labels) for text in of(label, 1.0 if index == 0 else 0.037)]
    uneven = [text for index, label in enumerate(labels) for text in of(label, (1.0, 0.5, 0.25, 0.125)[index])]
    own = [row.text for row in examples]
    foreign = [*own[: 7 * 450], *(row.text for row in strangers[: 3 * 450])]
    yield "rest", ["data.unlabelled=rest"]
    yield "250 texts", ["data.unlabelled=rest", "data.unlabelled_rows=250"]
    yield "uneven, 8 to 1", [write("uneven", uneven)]
    yield "skewed, 9 of 10 of one class", [write("skewed", skewed)]
    yield "3 of 10 foreign, filtered", [write("foreign", foreign)]
    yield "3 of 10 foreign, not filtered", [write("foreign", foreign), "data.unlabelled_filter=false"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[20, 21, 22, 23, 24])
    parser.add_argument("--csv", type=Path, default=Path("wrong_pools.csv"))
    given = parser.parse_args(arguments)
    if "INFOPROMPT_DATA" not in os.environ:
        print("INFOPROMPT_DATA is not set, but must name the folder that has ag_news. Set it.", file=sys.stderr)
        return 2
    recipe = ROOT / "configs" / "recipes" / "label_information.yaml"
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for pool, choice in pools(Path(name), Path(os.environ["INFOPROMPT_DATA"])):
            for form in ("off", "plain", "guarded") if pool == "rest" else ("plain", "guarded"):
                for seed in given.seeds:
                    out = [f"run.output_dir={name}/run", f"seed={seed}", f"objective.label_form={form}"]
                    result = run(load_config(recipe, [*SETTINGS, *choice, *out]))
                    scores = (result.rows.get("unlabelled", 0), result.dev["accuracy"], result.test["accuracy"])
                    rows.append(dict(zip(COLUMNS, (pool, form, seed, *scores), strict=True)))
    with given.csv.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    plain = {row["seed"]: row["test"] for row in rows if row["form"] == "off"}
    print(f"{'texts without labels':<32}{'form':<10}{'texts':>7}{'test':>8}{'minus off':>11}{'lowest':>9}")
    for pool, form in dict.fromkeys((row["pool"], row["form"]) for row in rows):
        chosen = [row for row in rows if (row["pool"], row["form"]) == (pool, form)]
        gaps = [row["test"] - plain[row["seed"]] for row in chosen]
        mean, texts = statistics.fmean(row["test"] for row in chosen), statistics.fmean(row["texts"] for row in chosen)
        print(f"{pool:<32}{form:<10}{texts:7.0f}{mean:8.4f}{statistics.fmean(gaps):+11.4f}{min(gaps):+9.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
