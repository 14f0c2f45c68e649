"""`infoprompt compare`: every kind of rows, the time it is given, going on, and what it says."""

import csv
import json
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from here_worker import HereWorker, leave_result, use_here_worker

from infoprompt.config import ConfigError, load_config
from infoprompt.train import run
from launcher.choosing.asked import Asked
from launcher.choosing.candidates import Plan, make_plan, misfits
from launcher.choosing.compare import compare
from launcher.choosing.deadline import Clock, OutOfTime, at_most
from launcher.choosing.methods import METHODS
from launcher.choosing.probe import Estimate, probe
from launcher.choosing.rows import Facts, facts_of, read_by
from launcher.choosing.running import ComparisonFailed
from launcher.choosing.verdict import (
    Gap,
    OnTestRows,
    Scored,
    choice_lines,
    choose_best,
    confirmation,
    curve_lines,
    gap_between,
)
from launcher.paired import interval, paired_differences, resampled_interval
from launcher.studies.worker import Order

WORDS = "film movie car tree bank card money water".split()
SHORT = ("optim.max_steps=2", "data.unlabelled_filter=false", "data.unlabelled_batch=16")
OF_TEXTS = [name for name, method in METHODS.items() if "single" in method.kinds]
ALL_BUT_TEXTS = [name for name in OF_TEXTS if name != "label_information"]
PAIRS = [name for name in ALL_BUT_TEXTS if "pair" in METHODS[name].kinds]
BY_GRADIENT = [name for name in METHODS if "regression" in METHODS[name].kinds]


def pretended(order: Order) -> str | None:
    """Leaves what a run leaves; LoRA is the best, and every score follows from method and seed."""
    config, method = order.config, order.tags["study.method"]
    score = {"majority": 0.3, "lora": 0.8}.get(method, 0.6) + 0.01 * config.seed
    metric = {"accuracy": score, "pearson": score, "entity_f1": score, "macro_f1": score}
    main = config.evaluation.metric or order.tags.get("metric", "accuracy")
    rows = {"train": config.data.few_shot.per_class or config.data.few_shot.total or 48, "dev": 16, "test": 0}
    leave_result(config, metric, metric=main, rows=rows)
    return None


@pytest.fixture
def workers(monkeypatch) -> type[HereWorker]:
    """Has runs trained by `HereWorker`, with two seeds and one setting of each method."""
    monkeypatch.setattr("launcher.choosing.candidates.OPTIONS", ((2, 1),))
    return use_here_worker(monkeypatch)


@pytest.fixture
def pretending(workers, monkeypatch) -> type[HereWorker]:
    """Has runs only pretend to train."""
    monkeypatch.setattr(HereWorker, "train", staticmethod(pretended))
    return workers


@pytest.fixture
def estimated(monkeypatch) -> list[str]:
    """Every run is said to take a second; the methods that were measured."""
    measured = []

    def pretended_probe(config, splits):
        measured.append(Path(config.run.output_dir).name)
        return Estimate(1.0, 0.0, 0.0, 0.0)

    monkeypatch.setattr("launcher.choosing.compare.probe", pretended_probe)
    return measured


def rows_of(kind: str, count: int) -> list[dict]:
    picks, rows = random.Random(kind), []
    for index in range(count):
        text = " ".join(picks.choices(WORDS, k=5)) + f" {index}"
        label = ("good", "bad")[index % 2]
        rows.append(
            {
                "single": {"text": f"{text} {label}", "label": label},
                "pair": {"text_a": text, "text_b": f"the {label} one", "label": label},
                "choice": {"text": text, "choices": [f"a {word} one" for word in ("good", "bad")], "label": index % 2},
                "tags": {"tokens": [*text.split(), label], "tags": ["O"] * len(text.split()) + [f"B-{label}"]},
                "regression": {"text": text, "value": index % 5},
                "skewed": {"text": f"{text} {label}", "label": "rare" if index % 10 == 0 else "common"},
                "many": {"text": f"{WORDS[index % 8]} {index // 32} {text}", "label": f"class {index % 32}"},
            }[kind]
        )
    return rows


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def asked(tmp_path, tiny_bert) -> Callable[..., Asked]:
    """What a comparison of rows of a kind is asked for."""

    def of(kind: str = "single", count: int = 64, **changes) -> Asked:
        train = write(tmp_path / f"{kind}.jsonl", rows_of(kind, count))
        known = {
            "train": train,
            "test": None,
            "unlabelled": None,
            "backbone": tiny_bert,
            "overrides": SHORT,
            "minutes": 30,
            "workers": 1,
        }
        return Asked(**{**known, **changes})

    return of


def outcome(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize(
    ("kind", "count", "metric", "compared"),
    [
        ("pair", 40, "accuracy", ALL_BUT_TEXTS),
        ("choice", 40, "accuracy", BY_GRADIENT),
        ("tags", 40, "entity_f1", BY_GRADIENT),
        ("regression", 40, "pearson", BY_GRADIENT),
        ("skewed", 60, "macro_f1", ALL_BUT_TEXTS),
        ("many", 128, "accuracy", ALL_BUT_TEXTS),
    ],
)
def test_each_kind_of_rows_is_measured_planned_and_judged(
    kind, count, metric, compared, asked, pretending, tmp_path, capsys
):
    # time enough for all of them on a busy machine too
    compare(asked(kind, count, minutes=300), tmp_path / "out", json_output=True, quiet=True)
    values = outcome(capsys)
    assert values["facts"]["metric"] == metric
    assert set(values["methods"]) == set(compared)
    assert set(values["plan"]["left_out"]) == METHODS.keys() - set(compared)
    assert values["method"] == "lora"
    assert "lora has the best" in values["verdict"][0]
    config = load_config(values["config"])
    assert config.backbone.lora_rank == 8
    assert config.data.train == str(tmp_path / f"{kind}.jsonl")
    if kind in ("choice", "tags", "regression"):
        assert values["plan"]["left_out"]["logistic_regression"].startswith("it is not for ")


def test_a_decoder_is_also_asked_for_choices(asked, pretending, estimated, tiny_backbones, tmp_path, capsys):
    compare(asked("choice", 40, backbone=tiny_backbones["llama"]), tmp_path / "out", json_output=True, quiet=True)
    values = outcome(capsys)
    assert set(values["methods"]) == {*BY_GRADIENT, "zero_shot_choices", "few_shot_in_context_choices"}


def test_a_curve_over_labels_is_of_a_method_that_reads_them():
    blind = {name for name, method in METHODS.items() if not method.reads_labels}
    assert blind == {"nearest_label", "zero_shot", "zero_shot_choices"}


def test_64_rows_and_2000_texts_end_with_a_verdict_and_the_command(asked, workers, tmp_path, monkeypatch, capsys):
    lines = [
        " ".join(random.Random(index).choices([*WORDS, "good", "bad"], k=6)) + f" {index}" for index in range(2000)
    ]
    (tmp_path / "more.txt").write_text("\n".join(lines))
    test = write(tmp_path / "test.jsonl", rows_of("single", 96)[64:])
    given = asked(unlabelled=str(tmp_path / "more.txt"), test=test)
    compare(given, tmp_path / "out", json_output=True, quiet=True)
    values = outcome(capsys)
    assert set(values["methods"]) == set(OF_TEXTS)
    assert values["facts"]["num_unlabelled"] == 2000
    assert not any(order.config.evaluation.test for order in workers.orders)
    for name in (values["method"], values["reference"]):
        assert set(values["test"][name]) == {"0", "1"}
        assert values["test"][name]["0"] in [count / 32 for count in range(33)]
    kept = {path.parents[1].name for path in (tmp_path / "out").glob("runs/*/all/**/artifact")}
    assert kept, "a start with more time could not score another method"
    said = "\n".join(values["verdict"])
    assert "On 32 test rows, read once" in said
    assert "Texts without labels: label_information is" in said
    with (tmp_path / "out/runs.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(workers.orders)
    assert [row["method"] for row in rows if row["test"]].count(values["method"]) == 2
    workers.orders.clear()
    monkeypatch.setattr("infoprompt.evaluate.evaluate_examples", lambda *arguments, **named: pytest.fail("read again"))
    compare(given, tmp_path / "out", json_output=True, quiet=True)
    assert outcome(capsys)["test"] == values["test"]
    assert workers.orders == []
    assert values["command"] in (tmp_path / "out/verdict.md").read_text()
    changes = ["optim.max_steps=2", "tracking.enabled=false", f"run.output_dir={tmp_path / 'trained'}"]
    trained = run(load_config(values["config"], changes))
    assert Path(trained.artifact).is_dir()


def test_the_same_held_out_rule_and_the_same_seeds_hold_for_every_method(asked, pretending, tmp_path, estimated):
    compare(asked(), tmp_path / "out", quiet=True)
    full = [order.config for order in pretending.orders if order.config.data.few_shot.per_class is None]
    assert {config.data.validation_share for config in full} == {0.25}
    assert {config.evaluation.state for config in full} == {"last"}
    seeds = {}
    for config in full:
        seeds.setdefault((str(config.prompt), str(config.backbone), config.head_fit, config.optim.lr), set())
        seeds[(str(config.prompt), str(config.backbone), config.head_fit, config.optim.lr)].add(config.seed)
    assert set(map(tuple, map(sorted, seeds.values()))) == {(0, 1)}


def test_it_goes_on_where_it_was_stopped(asked, pretending, tmp_path, estimated, monkeypatch, capsys):
    given, out = asked(), tmp_path / "out"

    def stopped(order: Order) -> str | None:
        if len(pretending.orders) == 6:
            raise KeyboardInterrupt
        return pretended(order)

    monkeypatch.setattr(HereWorker, "train", staticmethod(stopped))
    with pytest.raises(KeyboardInterrupt):
        compare(given, out, quiet=True)
    first = [order.config.run.output_dir for order in pretending.orders[:5]]
    measured = list(estimated)
    pretending.orders.clear()
    monkeypatch.setattr(HereWorker, "train", staticmethod(pretended))
    compare(given, out, json_output=True, quiet=True)
    again = [order.config.run.output_dir for order in pretending.orders]
    assert not set(first) & set(again)
    assert estimated == measured, "what runs take was measured again"
    assert outcome(capsys)["method"] == "lora"
    pretending.orders.clear()
    compare(given, out, quiet=True)
    assert pretending.orders == []


def test_a_folder_with_other_files_is_left_as_it_is(asked, tmp_path):
    out = tmp_path / "own"
    out.mkdir()
    (out / "runs.csv").write_text("mine")
    with pytest.raises(ConfigError, match=r"--output is .*own, which holds runs\.csv and no comparison"):
        compare(asked(), out, quiet=True)
    assert {path.name for path in out.iterdir()} - {".lock"} == {"runs.csv"}


@pytest.mark.parametrize("override", ["optim.lr=1e-4", "seed=1", "search.optim.lr=[1]"])
def test_a_setting_that_a_comparison_decides_is_refused_at_once(override, asked, tmp_path):
    with pytest.raises(ConfigError, match=f"{override.partition('=')[0]} itself"):
        compare(replace(asked(), overrides=(override,)), tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_more_minutes_measure_what_there_was_no_time_for(asked, pretending, tmp_path, estimated, monkeypatch):
    monkeypatch.setattr("launcher.choosing.compare.PROBE_SHARE", 0.0)
    compare(asked(minutes=5), tmp_path / "out", quiet=True)
    assert "lora" not in estimated
    kept = json.loads((tmp_path / "out/compare.json").read_text())
    assert kept["left_out"]["lora"] == "there was no time to measure it"
    monkeypatch.setattr("launcher.choosing.compare.PROBE_SHARE", 0.3)
    compare(asked(minutes=10), tmp_path / "out", quiet=True)
    assert "lora" in estimated


def test_other_rows_in_the_same_folder_are_refused(asked, pretending, tmp_path, estimated):
    given = asked()
    compare(given, tmp_path / "out", quiet=True)
    write(Path(given.train), rows_of("single", 60))
    with pytest.raises(ConfigError, match="holds a comparison with other train"):
        compare(given, tmp_path / "out", quiet=True)


class Time:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("run_seconds", [1.0, 7.0])
def test_the_time_given_is_kept_also_where_runs_take_longer_than_planned(
    run_seconds, asked, pretending, tmp_path, estimated, monkeypatch, capsys
):
    hand = Time()
    monkeypatch.setattr("launcher.choosing.compare.Clock", lambda seconds: Clock(seconds, hand))

    def slow(order: Order) -> str | None:
        hand.now += run_seconds
        return pretended(order)

    monkeypatch.setattr(HereWorker, "train", staticmethod(slow))
    test = write(tmp_path / "test.jsonl", rows_of("single", 20))
    compare(asked(minutes=1.5, test=test), tmp_path / "out", json_output=True, quiet=True)
    values = outcome(capsys)
    assert hand.now <= 90
    assert bool(values["unfinished"]) == (run_seconds > 1)
    assert values["verdict"]
    if run_seconds > 1:
        assert any(line.startswith("Not finished in the time: ") for line in values["verdict"])


def test_too_little_time_says_so(asked, pretending, tmp_path, estimated, monkeypatch):
    hand = Time()
    monkeypatch.setattr("launcher.choosing.compare.Clock", lambda seconds: Clock(seconds, hand))

    def endless(order: Order) -> str | None:
        hand.now += 1000
        return pretended(order)

    monkeypatch.setattr(HereWorker, "train", staticmethod(endless))
    with pytest.raises(ComparisonFailed, match="No method could be scored"):
        compare(asked(minutes=0.5), tmp_path / "out", quiet=True)


def test_a_body_that_takes_too_long_is_left():
    start = time.monotonic()
    with pytest.raises(OutOfTime), at_most(0.1):
        time.sleep(10)
    assert time.monotonic() - start < 5
    with at_most(10):
        pass


def test_a_method_that_fails_is_named_and_the_others_are_judged(
    asked, pretending, tmp_path, estimated, monkeypatch, capsys
):
    def failing(order: Order) -> str | None:
        return "ValueError: no" if order.tags["study.method"] == "lora" else pretended(order)

    monkeypatch.setattr(HereWorker, "train", staticmethod(failing))
    compare(asked(), tmp_path / "out", json_output=True, quiet=True)
    values = outcome(capsys)
    assert values["unfinished"] == {"lora": "ValueError: no"}
    assert "lora" not in values["methods"]


def test_plan_alone_trains_nothing(asked, workers, tmp_path, estimated, capsys):
    compare(asked(), tmp_path / "out", plan_only=True, json_output=True)
    values = outcome(capsys)
    assert [one["name"] for one in values["plan"]["candidates"]][:4] == [*METHODS][:4]
    assert workers.orders == []


def test_the_screen_has_the_plan_every_run_the_table_and_the_verdict(asked, pretending, tmp_path, estimated, capsys):
    compare(asked(), tmp_path / "out")
    shown = capsys.readouterr().out
    assert shown.startswith("single: 64 rows, single texts, 2 classes; scored by accuracy")
    assert "measuring what a run of each method takes, about 9 min at most" in shown
    assert "planned: about" in shown
    assert "left out, since no texts without labels are given (--unlabelled): label_information" in shown
    assert "left out, since it is not for single texts: zero_shot_choices, few_shot_in_context_choices" in shown
    assert shown.count("seed_0") == len(ALL_BUT_TEXTS) + 2  # head_only tries three rates
    assert "lora has the best accuracy on held-out rows: 0.8050 ± 0.0071 over 2 seeds." in shown
    assert "These are figures of held-out rows" in shown
    assert "train " in shown.splitlines()[-1]


def test_the_command_finds_its_files(tmp_path, tiny_bert, infoprompt):
    write(tmp_path / "mine.jsonl", rows_of("single", 40))
    done = infoprompt("compare", "mine.jsonl", "--backbone", tiny_bert, "--plan", "--quiet", "optim.max_steps=2")
    assert done.returncode == 0, done.stderr
    assert "planned: about" in done.stdout
    assert (tmp_path / "runs/compare/mine/compare.json").exists()
    done = infoprompt("compare", "absent.jsonl", "--backbone", tiny_bert)
    assert done.returncode == 2
    assert "absent.jsonl" in done.stderr


FACTS = Facts("toy", "single", "accuracy", 64, 0, 0, 2, "good", 0.5, 32)


def estimates(seconds: float) -> dict[str, Estimate]:
    return {name: Estimate(0.5, 0, 0, 0.01) for name in ("majority", "head_only")} | {
        name: Estimate(0.5, seconds / 160, 0, 0.01) for name in ("prefix", "lora", "full_fine_tuning")
    }


def test_a_plan_takes_the_most_seeds_that_fit_and_then_leaves_out_the_dearest():
    plans = [make_plan(FACTS, estimates(20), {}, 48, 60 * minutes) for minutes in (60, 15, 7, 4)]
    assert [plan.num_seeds for plan in plans] == [10, 5, 5, 3]
    assert [plan.candidates[-1].tries for plan in plans] == [3, 3, 1, 1]
    assert not any(plan.left_out for plan in plans[:3])
    (reason,) = plans[3].left_out.values()
    assert reason == "its 3 runs take about 1 min"
    assert all(plan.seconds < 0.85 * 60 * minutes for plan, minutes in zip(plans, (60, 15, 7, 4), strict=True))
    assert Plan.load(json.loads(json.dumps(plans[0].as_json()))) == plans[0]


def test_the_recommended_method_is_left_out_last():
    names = ["majority", "head_only", "prefix", "lora", "full_fine_tuning"]
    for recommended, minutes, kept in (
        ("full_fine_tuning", 4, ["majority", "head_only", "prefix", "full_fine_tuning"]),
        ("full_fine_tuning", 2.5, ["majority", "head_only", "full_fine_tuning"]),
        ("full_fine_tuning", 1, ["majority", "head_only"]),  # with five seeds, since these leave time
        (None, 4, names[:-1]),
    ):
        plan = make_plan(FACTS, estimates(20), {}, 48, 60 * minutes, recommended)
        assert [one.name for one in plan.candidates] == kept
        assert set(plan.left_out) == set(names) - set(kept)


def test_time_for_the_test_rows_is_kept():
    without, with_test = (make_plan(replace(FACTS, num_test=rows), estimates(20), {}, 48, 3600) for rows in (0, 1000))
    assert without.test_seconds == 0
    assert with_test.test_seconds == pytest.approx(2 * with_test.num_seeds * (1 + 10))
    assert with_test.seconds == pytest.approx(without.seconds + with_test.test_seconds)
    many = make_plan(replace(FACTS, num_test=10_000), estimates(20), {}, 48, 3600)
    # 202 s a seed, of a quarter of 3,045 s
    assert (many.test_seeds, many.test_seconds) == (3, pytest.approx(3 * 202))


def test_methods_that_do_not_fit_are_named_with_the_reason():
    config = load_config_of({"data": {"train": "x.csv"}})
    choices = dict.fromkeys(METHODS.keys() - set(OF_TEXTS), "it is not for single texts")
    texts = {"label_information": "no texts without labels are given (--unlabelled)"}
    assert misfits(FACTS, config) == {**choices, **texts}
    tags = misfits(replace(FACTS, kind="tags"), config)
    assert tags["contrastive"] == "it is not for tags of words"
    few = {"label_information": "fewer than 200 of the texts without labels can be used"}
    assert misfits(FACTS, config, texts_given=True) == {**choices, **few}


def load_config_of(values: dict):
    from infoprompt.config import compose_config

    return compose_config([METHODS["head_only"].settings, values])


def test_a_probe_tells_what_an_update_takes_and_leaves_nothing(asked, tmp_path, tiny_bert):
    from infoprompt.data.splits import load_splits

    given = asked()
    config = load_config_of(
        {
            "data": given.data(),
            "backbone": {"name": tiny_bert, "lora_rank": 8},
            "run": {"output_dir": str(tmp_path / "probed")},
        }
    )
    begin = time.perf_counter()
    found = probe(config, load_splits(config.data, 0))
    total = time.perf_counter() - begin
    assert 0 < found.update < total
    assert found.run(5, 3) == pytest.approx(total, rel=0.5)
    assert found.run(100) > found.run(10)
    assert not list(tmp_path.glob("probed/probe"))


def test_texts_that_the_tokenizer_splits_badly_are_told(tmp_path, tiny_bert):
    from infoprompt.data.splits import load_splits

    rows = [{"text": f"zzzz qqqqq {index}", "label": index % 2} for index in range(20)]
    config = load_config_of({"data": {"train": write(tmp_path / "x.jsonl", rows)}, "backbone": {"name": tiny_bert}})
    splits = load_splits(config.data, 0)
    found = read_by(config, splits.train)
    assert found.split_share > 0.5
    assert "perhaps the backbone was not made for this language" in found.lines()[-1]
    assert facts_of(splits, config.data).lines()[0] == "x: 20 rows, single texts, 2 classes; scored by accuracy"


def scored(name: str, *scores: float) -> Scored:
    return Scored(name, dict(enumerate(scores)), 1.0)


def test_the_best_mean_is_taken_and_compared_with_what_costs_less():
    choice = choose_best([scored("majority", 0.5, 0.5), scored("head", 0.7, 0.71), scored("lora", 0.9, 0.92)], 0.3)
    assert (choice.best.name, choice.reference) == ("lora", "head")
    assert choice.top is choice.best


def test_a_dear_method_is_compared_with_the_best_of_those_that_pass_no_backbone():
    prefix, lora = (
        replace(scored(name, *found), quick=False) for name, found in (("prefix", [0.8] * 2), ("lora", [0.9] * 2))
    )
    assert choose_best([scored("head", 0.7, 0.7), prefix, lora], 0.3).reference == "head"


def test_what_is_too_large_is_not_kept(asked, workers, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("launcher.choosing.running.LARGE_BYTES", 0)
    few = {name: METHODS[name] for name in ("majority", "nearest_label", "head_only")}
    monkeypatch.setattr("launcher.choosing.compare.METHODS", few)
    monkeypatch.setattr("launcher.choosing.candidates.METHODS", few)
    test = write(tmp_path / "test.jsonl", rows_of("single", 20))
    compare(asked(test=test), tmp_path / "out", json_output=True, quiet=True)
    assert len(outcome(capsys)["test"]) == 2
    assert not list((tmp_path / "out").glob("runs/**/artifact"))


def test_what_other_tasks_favour_is_taken_within_two_standard_errors():
    head, prompt = scored("head", 0.70, 0.60, 0.80), scored("adaption_prompt", 0.65, 0.62, 0.75)
    choice = choose_best([head, prompt], 0.3, "adaption_prompt")
    assert (choice.top.name, choice.best.name) == ("head", "adaption_prompt")
    assert "is within two standard errors of it" in choice_lines(choice, "accuracy")[1]
    far = scored("adaption_prompt", 0.20, 0.22, 0.25)
    assert choose_best([head, far], 0.3, "adaption_prompt").best.name == "head"


def test_intervals_of_resampled_rows_are_wider_than_students():
    values = [0.01, 0.03, 0.02, 0.04, 0.05]
    narrow, wide = interval(values), resampled_interval(values, 1 / 3)
    assert narrow is not None
    assert wide is not None
    # both are the mean +- t s sqrt(...): 1 / 5 becomes 1 / 5 + 1 / 3
    assert (wide[1] - 0.03) / (narrow[1] - 0.03) == pytest.approx(((1 / 5 + 1 / 3) / (1 / 5)) ** 0.5)
    assert resampled_interval(values, 0.0) == pytest.approx(narrow)
    assert resampled_interval([0.1], 0.3) is None
    assert resampled_interval([0.1, 0.1], 0.3) is None


def test_a_gap_says_its_side_its_interval_and_its_seeds():
    above = gap_between(scored("lora", 0.80, 0.84, 0.82), scored("head", 0.70, 0.72, 0.74), 0.0)
    assert above.sure == "above"
    assert above.text() == "lora is 10.0 points above head, interval 5.0 to 15.0, 3 seeds"
    below = Gap("lora", "head", -0.02, -0.03, -0.01, 5)
    assert below.text() == "lora is 2.0 points below head, interval 1.0 to 3.0, 5 seeds"
    assert below.sure == "below"
    assert Gap("lora", "head", 0.02, None, None, 1).text() == "lora is 2.0 points above head, 1 seed"
    same = gap_between(scored("lora", 0.8, 0.8, 0.8), scored("head", 0.7, 0.7, 0.7), 0.3)
    # two methods that no seed changes may differ by a single row
    assert (same.sure, same.text()) == ("no", "lora is 10.0 points above head, the same on 3 seeds")


def test_the_curve_says_whether_more_labels_help():
    rising = curve_lines("head", [(12, {0: 0.5, 1: 0.5}), (24, {0: 0.6, 1: 0.61}), (48, {0: 0.7, 1: 0.711})], 0.0)
    assert rising[0] == "Labels: head has 0.500 with 12, 0.605 with 24, 0.706 with 48 training rows."
    assert rising[1].endswith(": more labels help.")
    flat = curve_lines("head", [(24, {0: 0.6, 1: 0.61, 2: 0.6}), (48, {0: 0.599, 1: 0.61, 2: 0.6})], 0.0)
    assert (
        flat[1]
        == "From 24 to 48 it lost 0.0 points (interval -0.2 to 0.1): more labels of this kind would bring little."
    )
    probably = curve_lines("head", [(24, {0: 0.6, 1: 0.6, 2: 0.6}), (48, {0: 0.7, 1: 0.62, 2: 0.64})], 0.0)
    assert probably[1].endswith("would probably help.")
    unsure = curve_lines("head", [(24, {0: 0.6, 1: 0.7}), (48, {0: 0.7, 1: 0.72})], 0.0)
    assert unsure[1].endswith("so few rows do not tell whether more of them help.")
    assert curve_lines("head", [(48, {0: 0.6})], 0.0) == []


def on_test_rows(*right: str) -> OnTestRows:
    rows = {seed: [letter == "r" for letter in letters] for seed, letters in enumerate(right)}
    return OnTestRows({seed: sum(row) / len(row) for seed, row in rows.items()}, rows)


def test_test_rows_confirm_what_their_interval_and_every_seed_say():
    better, worse = on_test_rows("r" * 50, "r" * 50), on_test_rows("r" * 30 + "w" * 20, "r" * 35 + "w" * 15)
    told = confirmation("lora", "head", better, worse)
    assert told.startswith("They confirm it: lora is 35.0 points above head, interval ")
    assert told.endswith(", 50 rows, 2 seeds.")
    assert confirmation("head", "lora", worse, better).startswith(
        "They do not confirm it: head is 35.0 points below lora"
    )
    mixed = on_test_rows("r" * 45 + "w" * 5, "r" * 10 + "w" * 40)
    assert confirmation("lora", "head", mixed, worse).startswith("They do not tell the two apart: ")
    values = OnTestRows({0: 0.9, 1: 0.91, 2: 0.89}, {}), OnTestRows({0: 0.5, 1: 0.52, 2: 0.51}, {})
    assert confirmation("lora", "head", *values).endswith("interval 36.5 to 41.5, 3 seeds.")


def test_a_verdict_without_a_clear_winner_names_what_is_level():
    choice = choose_best([scored("majority", 0.5, 0.7), scored("head", 0.6, 0.61), scored("lora", 0.62, 0.66)], 0.3)
    lines = choice_lines(choice, "accuracy")
    assert lines[1].startswith("lora is not surely above majority: lora is 4.0 points above majority, interval")
    clear = choose_best([scored("majority", 0.5, 0.5, 0.5), scored("lora", 0.9, 0.91, 0.9)], 0.3)
    assert choice_lines(clear, "accuracy")[1] == "lora is surely above every other method."


def test_of_many_methods_the_best_needs_a_wider_gap():
    """The intervals of one choice hold together at 95 %: of two methods it is at 95 %, of eleven each at 99.5 %."""
    lora, head = scored("lora", 0.80, 0.84, 0.82, 0.85), scored("head", 0.77, 0.79, 0.80, 0.83)
    differences = paired_differences(lora.scores, head.scores)
    (alone,) = choose_best([head, lora], 0.0).gaps
    assert (alone.low, alone.high) == pytest.approx(resampled_interval(differences, 0.0, 0.95))
    assert alone.sure == "above"
    many = choose_best([head, *(scored(f"other{number}", 0.5, 0.6, 0.5, 0.6) for number in range(9)), lora], 0.0)
    assert (many.gaps[0].other, many.gaps[0].sure) == ("head", "no")
    assert (many.gaps[0].low, many.gaps[0].high) == pytest.approx(resampled_interval(differences, 0.0, 0.995))


def test_the_same_score_on_every_seed_of_the_test_rows_confirms_nothing():
    ours, theirs = OnTestRows({0: 0.61, 1: 0.61, 2: 0.61}, {}), OnTestRows({0: 0.60, 1: 0.60, 2: 0.60}, {})
    assert confirmation("lora", "head", ours, theirs).startswith("They do not tell the two apart: ")
