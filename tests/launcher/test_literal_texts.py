"""Names, settings and texts of the user are shown as they are, whatever rich would make of them."""

import io
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from infoprompt.bar import ProgressBar
from infoprompt.config import load_config
from infoprompt.progress import Progress
from launcher.comparison import Outcome
from launcher.doctor.checks import Check, show_checks
from launcher.report import console, describe, next_steps, summary
from launcher.studies.plan import Method, Study
from launcher.studies.screen import plan_table
from launcher.sweeps import view
from launcher.sweeps.journal import RunState, TrialState
from launcher.sweeps.plan import load_sweep

RESULT = {"steps": 4, "steps_to_95": 2, "seconds": 1.5, "trained_parameters": 12, "artifact": ""}
CANARY = "[bold]x[/red] :smile: [link=a]"
ROOT = Path(__file__).parents[2]


def shown(renderable, *, ours: bool) -> str:
    screen = console() if ours else Console(soft_wrap=True)
    screen.file, screen.width = io.StringIO(), 250
    screen.print(renderable)
    return screen.file.getvalue()


def test_the_description_and_the_next_steps_of_a_run_are_literal(tiny_config):
    config = load_config(tiny_config, [f"run.name={CANARY}", f"run.output_dir=runs/{CANARY}"])
    assert shown(describe(config, 1), ours=True).count(CANARY) == 2
    outcome = Outcome(CANARY, {**RESULT, "metric": "accuracy", "artifact": f"/elsewhere/{CANARY}"})
    assert CANARY in shown(next_steps(outcome, config), ours=True)


@pytest.mark.parametrize("ours", [True, False])
def test_the_table_of_results_is_literal(ours):
    result = {**RESULT, "metric": CANARY, "test": {CANARY: 0.5}, "dev": {CANARY: 0.5}}
    text = shown(summary(Outcome(CANARY, result, {f"b{CANARY}": result}, {"wild": CANARY})), ours=ours)
    assert text.count(CANARY) == 5  # two runs, two headings, a reason


def test_the_bar_is_literal(capsys):
    bar = ProgressBar(True, CANARY, Progress(4, 8))
    bar._bar.live.console = bar._bar.live.console.__class__(
        file=io.StringIO(), force_terminal=True, width=250, no_color=True
    )
    assert CANARY in "".join(segment.text for segment in bar._bar.console.render(bar._bar.get_renderable()))


def test_a_sweep_is_literal(tmp_path, tiny_config):
    (tmp_path / "base.yaml").write_text(tiny_config.read_text())
    (tmp_path / "sweep.yaml").write_text(
        f"base: base.yaml\nspace: {{prompt.text: {{grid: ['{CANARY}', b]}}}}\nname: '{CANARY}'\n"
    )
    sweep = load_sweep(tmp_path / "sweep.yaml")
    for ours in (True, False):
        screen = console() if ours else Console(soft_wrap=True)
        screen.file, screen.width = io.StringIO(), 250
        shown = view.View(screen, live=False)
        shown.begin(sweep, 1, [])
        trial = TrialState(0, {"prompt.text": CANARY}, [RunState(0, curve=[(2, 0.5)])])
        shown.update(SimpleNamespace(events=[], changed={0: trial}, groups={"group": "trial 0 seed 0"}, exhausted=None))
        screen.print(shown.table())
        assert screen.file.getvalue().count(CANARY) == 2  # the sweep's name, and a trial


def test_a_study_is_literal(tmp_path):
    settings = ({"prompt.text": CANARY},)
    method = Method(CANARY, (), (), settings, 1)
    config = SimpleNamespace(
        search_seeds=[0], seeds=[0], tasks=["toy"], sizes=[], baseline=CANARY, search=SimpleNamespace(budget=1)
    )
    values = {"name": CANARY, "runs": 1, "search_runs": 0, "final_runs": 1}
    study = Study(config, {CANARY: method})
    for ours in (True, False):
        assert shown(plan_table(study, values), ours=ours).count(CANARY) == 4


def test_checks_of_the_machine_are_literal(capsys):
    show_checks([Check("disk", "warn", CANARY, CANARY)], json_output=False)
    assert capsys.readouterr().out.replace("\n", "").count("[/red]") == 2


@pytest.mark.parametrize("path", [*(ROOT / "launcher").glob("*.py"), *(ROOT / "infoprompt").rglob("*.py")], ids=str)
def test_no_console_or_column_of_a_bar_reads_markup(path):
    for call in re.findall(r"\b(?:Console|TextColumn)\((?:[^()]|\([^()]*\))*\)", path.read_text()):
        assert "markup=False" in call, f"{path}: {call}"
    if path.name != "literal_table.py" and "rich" in path.read_text():
        assert not re.search(r"(?<!Literal)\bTable\(", path.read_text()), f"{path}: use LiteralTable"
