"""Tables made again from committed rows alone."""

import csv
import io
import json
import math
import statistics

import pytest
from scipy import stats
from typer.testing import CliRunner

from infoprompt.config import ConfigError
from launcher.cli import app
from launcher.studies.results import RunRow, write_csv
from launcher.studies.runs_table import as_markdown, compare_files

OURS, PLAIN = [0.75, 0.5, 0.8125], [0.625, 0.5, 0.5]


def run(method, seed, test, task="toy", size="total_16", **changes):
    row = RunRow(task, size, method, "final", seed, "{}", "finished", None, metric="accuracy", test=test)
    return RunRow(**{**vars(row), "steps_to_95": 10 * (seed + 1), "seconds": 2.0, **changes})


def runs(ours=OURS, plain=PLAIN, **changes):
    scores = {"ours": ours, "plain": plain}
    return [run(method, seed, test, **changes) for method in scores for seed, test in enumerate(scores[method])]


@pytest.fixture
def write(tmp_path):
    def write(rows, name="runs.csv"):
        write_csv(tmp_path / name, rows, RunRow)
        return tmp_path / name

    return write


@pytest.fixture
def call():
    return lambda *arguments: CliRunner().invoke(app, ["table", *map(str, arguments)])


def test_a_row_has_means_over_the_seeds_and_paired_differences_with_students_interval(write):
    compared = compare_files([write(runs(train_rows=16, test_rows=40))], baselines=["plain"])
    ours, plain = compared.rows
    assert (ours.seeds, ours.mean, ours.deviation) == (3, statistics.fmean(OURS), statistics.stdev(OURS))
    assert (ours.steps_to_95, ours.seconds, ours.best_step) == (20, 2, None)
    assert plain.differences == {}
    gaps = [0.125, 0, 0.3125]
    half = stats.t.ppf(0.975, 2) * statistics.stdev(gaps) / math.sqrt(3)
    found = ours.differences["plain"]
    assert (found.seeds, found.mean, found.verdict) == (3, statistics.fmean(gaps), "holds")
    assert found.interval == pytest.approx((found.mean - half, found.mean + half))
    assert (found.wins.wins, found.wins.ties, found.wins.losses) == (2, 1, 0)
    assert found.spread_ratio == pytest.approx(statistics.stdev(OURS) / statistics.stdev(PLAIN))
    text = as_markdown(compared)
    assert "## toy, total_16\n\naccuracy on 40 test rows, 16 training rows.\n" in text
    shown = f"{found.mean - half:+.4f} to {found.mean + half:+.4f}"
    assert f"| ours | 3 | 0.6875 ± 0.1654 | +0.1458 | {shown} | 2-1-0 | 20 | 2.0 |" in text
    assert "| plain | 3 | 0.5417 ± 0.0722 | - | - | - | 20 | 2.0 |" in text


def test_seeds_that_one_method_lacks_do_not_enter_the_difference(write):
    rows = [*runs(), run("ours", 7, 0.0), run("ours", 8, None, state="failed")]
    (ours, _) = compare_files([write(rows)], baselines=["plain"]).rows
    assert (ours.seeds, ours.failed, ours.differences["plain"].seeds) == (4, 1, 3)
    assert "| ours | 4 (1 failed) |" in as_markdown(compare_files([write(rows)]))


def test_the_summary_counts_on_which_side_of_zero_each_interval_lies(write):
    rows = [
        *runs([0.75, 0.80, 0.76], [0.5, 0.54, 0.52], size="a"),  # far above
        *runs([0.5, 0.54, 0.52], [0.75, 0.80, 0.76], size="b"),  # far below
        *runs(size="c"),  # holds zero
        *runs([0.75, 1.0], [0.5, 0.75], size="d"),  # by the same on each seed: no spread to judge by
        *runs([0.75], [0.5], size="e"),
        *runs([0.5, 0.75], [0.5, 0.75], size="f"),  # equal scores hold zero
    ]
    (summary,) = compare_files([write(rows)], baselines=["plain"]).summaries
    assert (summary.method, summary.baseline) == ("ours", "plain")
    assert (summary.above, summary.below, summary.holds, summary.unknown) == (1, 1, 2, 2)
    # the first two cells undo each other, those with equal spreads change nothing
    ratio = (statistics.stdev(OURS) / statistics.stdev(PLAIN)) ** (1 / 5)
    assert summary.spread_ratio == pytest.approx(ratio)
    assert summary.spread_cells == 5


def test_a_spread_of_zero_enters_no_ratio(write):
    rows = [*runs(size="a"), *runs(plain=[0.5, 0.5, 0.5], size="b")]
    (summary,) = compare_files([write(rows)], baselines=["plain"]).summaries
    assert (summary.spread_cells, summary.holds) == (1, 2)


def test_files_are_joined_and_a_run_that_stands_twice_alike_counts_once(write):
    first = write(runs(ours=OURS[:2]), "first.csv")
    second = write(runs(), "second.csv")
    joined, whole = compare_files([first, second], baselines=["plain"]), compare_files([second], baselines=["plain"])
    assert sorted(joined.rows, key=str) == sorted(whole.rows, key=str)


def test_a_failed_run_that_finished_elsewhere_has_finished(write):
    failed = write([run("ours", 0, None, state="failed")], "failed.csv")
    (row,) = compare_files([failed, write([run("ours", 0, 0.5)])]).rows
    assert (row.seeds, row.failed) == (1, 0)


def test_runs_of_the_search_and_missing_ones_are_left_out(write):
    rows = [*runs(), run("ours", 0, None, phase="search"), run("other", 0, None, state="missing")]
    assert [row.seeds for row in compare_files([write(rows)]).rows] == [3, 3]


def test_seeds_of_different_settings_and_the_code_that_trained_are_told(write):
    rows = runs(version="1.2", commit="abc")
    rows[1] = run("ours", 1, 0.5, setting='{"optim.lr": 1}')
    notes = compare_files([write(rows)]).notes
    assert notes[-2:] == [
        "Trained by infoprompt 1.2 at abc.",
        "ours on toy, total_16 has seeds of 2 different settings.",
    ]


def test_a_file_of_an_earlier_version_is_read(write):
    path = write(runs())
    old = io.StringIO()
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    kept = [name for name in rows[0] if name not in ("train_rows", "dev_rows", "test_rows", "version", "commit")]
    writer = csv.DictWriter(old, kept, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(old.getvalue())
    compared = compare_files([path])
    assert [row.mean for row in compared.rows] == [statistics.fmean(OURS), statistics.fmean(PLAIN)]
    assert "accuracy on the test rows." in as_markdown(compared)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*runs(), run("ours", 1, 0.25)], r"runs.csv, line 8: test is 0.25 for ours .* seed 1, but .*runs.csv, line 3"),
        ([*runs(), run("ours", 9, 1.0, metric="macro_f1")], "line 8: metric is macro_f1 .*line 2 has accuracy"),
        ([run("ours", 0, None)], "line 2: test is empty"),
        ([run("ours", 0, "much")], "line 2: test is 'much', but must be a finite number"),
        ([run("ours", 0, math.nan)], "line 2: test is 'nan', but must be a finite number"),
        ([run("ours", 1.5, 0.5)], "line 2: seed is '1.5', but must be a whole number"),
        ([run("ours", 0, 0.5, seconds="long")], "line 2: seconds is 'long'"),
        ([run("ours", 0, None, phase="search")], "no final run in .*runs.csv"),
    ],
)
def test_what_a_table_cannot_be_made_of_is_refused_with_file_and_line(write, rows, message):
    with pytest.raises(ConfigError, match=message):
        compare_files([write(rows)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--baseline", "plian"], "--baseline is plian, but no final run has it. Did you mean plain?"),
        (["--method", "zzz"], "--method is zzz, but no final run has it. There are ours, plain."),
        (["--size", "b", "--task", "toy"], "No final run is of all that"),
    ],
)
def test_an_option_that_fits_no_run_is_refused(call, write, arguments, message):
    path = write([*runs(), *runs(task="other", size="b")])
    shown = call(path, *arguments)
    assert shown.exit_code == 2
    assert message in shown.stderr


def test_other_files_are_refused(call, write, tmp_path):
    (tmp_path / "table.csv").write_text("task,size,method,mean\n")
    for arguments, message in (
        ([tmp_path / "table.csv"], "table.csv has no column seed, but a table needs task, size, method, seed,"),
        ([tmp_path / "none.csv"], "No such file"),
        ([write(runs()), tmp_path], f"but {tmp_path} is none. Give folders of runs, or runs.csv files."),
        ([tmp_path, "--baseline", "plain"], f"{tmp_path} is a folder, but --baseline,"),
    ):
        shown = call(*arguments)
        assert shown.exit_code == 2, shown.output
        assert message in shown.stderr


def test_the_command_prints_what_is_asked_for_and_writes_it(call, write, tmp_path):
    path = write([*runs(), *runs(task="other")])
    asked = [path, "--task", "toy", "--method", "ours", "--baseline", "plain", "--markdown", tmp_path / "out.md"]
    shown = call(*asked)
    assert shown.exit_code == 0, shown.output
    assert (tmp_path / "out.md").read_text() == shown.stdout
    assert "## other" not in shown.stdout
    assert "| ours | plain | 0 | 1 | 0 | 0 | +0.1458 | 2.29 (1 cell) |" in shown.stdout
    values = json.loads(call(*asked, "--json").stdout)
    assert values["summary"][0]["holds"] == 1
    assert values["rows"][0]["differences"]["plain"]["verdict"] == "holds"


def test_a_method_that_has_read_the_texts_of_the_test_rows_says_so(write):
    rows = [run("ours", 0, 0.5, unlabelled="rest"), run("theirs", 0, 0.5, unlabelled="transductive")]
    assert [row.method for row in compare_files([write(rows)], baselines=[]).rows] == ["ours", "theirs (transductive)"]
