"""`infoprompt plan`: a run's plan, shown."""

from infoprompt.config import RunConfig
from launcher.plan.plan import make_plan
from launcher.plan.table import assumptions, plan_table
from launcher.report import console, print_json


def show_plan(config: RunConfig, device: str | None, ranks: int, *, json_output: bool) -> None:
    """Make the plan and print it, or one JSON object."""
    plan = make_plan(config, device, ranks)
    if json_output:
        print_json(plan.as_json())
    else:
        console().print(plan_table(plan), soft_wrap=False)
        console().print(assumptions(plan))
