"""Imports point one way, so that any part can be read with only those before it in mind."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Each may import itself and what stands before it.
ORDER = [
    "infoprompt.nested",
    "infoprompt.presets",
    "infoprompt.credentials",
    "infoprompt.settings",
    "infoprompt.yaml_files",
    "infoprompt.setting_table",
    "infoprompt.setting_errors",
    "infoprompt.files",
    "infoprompt.cache_folder",
    "infoprompt.embedded",
    "infoprompt.config",
    "infoprompt.progress",
    "infoprompt.stopping",
    "infoprompt.schedule",
    "infoprompt.bar",
    "infoprompt.tensor_file",
    "infoprompt.kept_tensors",
    "infoprompt.folder_lock",
    "infoprompt.output",
    "infoprompt.wire",
    "infoprompt.ranks",
    "infoprompt.picture",
    "infoprompt.kernels",
    "infoprompt.data",
    "infoprompt.objective",
    "infoprompt.peft.read",
    "infoprompt.model",
    "infoprompt.predictions",
    "infoprompt.predictor",
    "infoprompt.metrics",
    "infoprompt.engine",
    "infoprompt.tracking",
    "infoprompt.figures",
    "infoprompt.checkpoint",
    "infoprompt.mirror_store",
    "infoprompt.mirror",
    "infoprompt.mlmodel",
    "infoprompt.example",
    "infoprompt.artifact_files",
    "infoprompt.artifact",
    "infoprompt.artifact_set",
    "infoprompt.pyfunc",
    "infoprompt.peft",
    "infoprompt.evaluate",
    "infoprompt.test_predictions",
    "infoprompt.warm_start",
    "infoprompt.setup",
    "infoprompt.plain_rows",
    "infoprompt.text_pool",
    "infoprompt.head_start",
    "infoprompt.build_setup",
    "infoprompt.fitting",
    "infoprompt.training_state",
    "infoprompt.course",
    "infoprompt.result",
    "infoprompt.finite",
    "infoprompt.nodes",
    "infoprompt.train",
    "infoprompt.packed",
    "infoprompt.pretraining",
    "infoprompt.__init__",
    "launcher",
]
WRAPPED = {
    "deepspeed": "infoprompt/engine/deepspeed_",
    "ray": ("launcher/pool/ray_", "launcher/sweeps/ray_", "launcher/studies/ray_"),
    "triton": "infoprompt/kernels/",
    "mlflow": "infoprompt/tracking",
}


def rank(module: str) -> int:
    module = "infoprompt.__init__" if module == "infoprompt" else module
    places = [i for i, part in enumerate(ORDER) if module == part or module.startswith(f"{part}.")]
    assert places, f"{module} has no place in ORDER"
    return max(places, key=lambda place: len(ORDER[place]))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> list[str]:
    """Every module a file imports, hidden imports included, those for type checkers alone left out."""
    tree = tree_of(path)
    checking = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    hidden = {id(inner) for block in checking for inner in ast.walk(block)}
    found = []
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.append(node.module or "")
        elif isinstance(node, ast.Import):
            found += [name.name for name in node.names]
    return found


FILES = sorted([*(ROOT / "infoprompt").rglob("*.py"), *(ROOT / "launcher").rglob("*.py")])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    package = name.removesuffix(".__init__")
    if package != name and package not in ("infoprompt", "launcher"):
        name = package
    own = [module for module in imports(path) if module.split(".")[0] in ("infoprompt", "launcher")]
    upward = [module for module in own if rank(module) > rank(name)]
    assert not upward, f"{path} imports {', '.join(upward)}, which stand above it"


@pytest.mark.parametrize("package", WRAPPED)
def test_a_package_one_may_lack_is_touched_only_by_the_files_that_wrap_it(package):
    touching = [
        str(path.relative_to(ROOT))
        for path in FILES
        if any(module.split(".")[0] == package for module in imports(path))
    ]
    assert touching
    assert all(path.startswith(WRAPPED[package]) for path in touching), touching


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_no_two_files_import_each_other_by_any_way_round():
    modules = {module_of(path): path for path in FILES}
    graph = {
        name: sorted({module for module in imports(path) if module in modules and module != name})
        for name, path in modules.items()
    }
    done: set[str] = set()

    def walk(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"a circle: {' -> '.join([*way[way.index(name) :], name])}"
        if name not in done:
            for other in graph[name]:
                walk(other, (*way, name))
            done.add(name)

    for name in graph:
        walk(name, ())


# ---- imports inside functions

HEAVY = {
    *("torch", "transformers", "deepspeed", "ray", "mlflow", "datasets", "numpy", "sklearn", "scipy", "seqeval"),
    *("matplotlib", "rich", "optuna", "triton", "pandas", "pydantic", "multiprocessing", "peft"),
}
"""What takes long to load, or may be absent."""
LATE = {
    "launcher/cli.py": "a command loads what it needs when it is chosen",
    "launcher/commands/artifacts.py": "a command loads what it needs when it is chosen",
    "launcher/commands/many_runs.py": "a command loads what it needs when it is chosen",
    "launcher/commands/options.py": "what starts runs is loaded with a command that needs it",
    "launcher/train.py": "the environment is set before anything reads it",
    "launcher/comparison.py": "rows are checked before anything heavy is loaded",
    "launcher/report.py": "what is shown at the end is loaded at the end",
    "launcher/doctor/checks.py": "a check that cannot load its module is a finding",
    "launcher/sweep.py": "a sweep file is checked before Ray is loaded",
    "launcher/sweeps/view.py": "tables are loaded where there is a terminal",
    "launcher/studies/study.py": "a plan is shown before anything heavy is loaded",
    "launcher/studies/worker.py": "the process that starts workers needs nothing of theirs",
}
"""Files that import light modules of ours inside functions too, and why."""


MODULES = {module_of(path): path for path in FILES}


def top_level(path: Path) -> set[str]:
    """Modules that are loaded with a file."""
    tree = tree_of(path)
    inside = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test))
        for node in ast.walk(block)
    }
    return modules_in([node for node in ast.walk(tree) if id(node) not in inside])


def modules_in(nodes) -> set[str]:
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{name.name}" for name in node.names} & MODULES.keys()
            found |= submodules or {node.module}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found


@cache
def loaded_with(module: str) -> frozenset[str]:
    """Heavy packages that come with a module; there are no circles."""
    if module not in MODULES:
        return frozenset({module.partition(".")[0]} & HEAVY)
    return frozenset().union(*(loaded_with(other) for other in top_level(MODULES[module]) - {module}))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_function_imports_of_ours_only_what_is_heavy(path):
    if str(path.relative_to(ROOT)) in LATE:
        return
    tree = tree_of(path)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    late = modules_in([node for function in functions for node in ast.walk(function)]) & MODULES.keys()
    light = {module for module in late if loaded_with(module) <= loaded_with(module_of(path))}
    assert not light, f"{path} imports {', '.join(sorted(light))} inside a function: import it at the top"
