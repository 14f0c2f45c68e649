"""The README's map of the tree is whole, and its reading order has the files' lengths."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
READING = re.findall(r"^\| (`.+?) \| \[(.+?)\]\(.+?\) \| (\d+) \|$", README, flags=re.MULTILINE)
(TREE,) = re.findall(r"^infoprompt/  +.*?(?=^```)", README, flags=re.DOTALL | re.MULTILINE)


def entries() -> set[Path]:
    """The files and folders that the map names, each below the folder that it is indented under."""
    found, parents = set(), []
    for indent, names in re.findall(r"^( *)(\S+(?:, \S+)*)  +\S", TREE, flags=re.MULTILINE):
        parents = parents[: len(indent) // 2]
        found |= {ROOT.joinpath(*parents, name if name.endswith("/") else f"{name}.py") for name in names.split(", ")}
        parents.append(names.split(", ")[-1].rstrip("/"))
    return found


def test_the_map_names_every_module_and_folder_of_both_packages():
    for package in (ROOT / "infoprompt", ROOT / "launcher"):
        own = set(package.glob("*.py")) | {init.parent for init in package.glob("*/__init__.py")}
        missing = {path.name for path in own - entries()} - {"__init__.py"}
        assert not missing, f"The map in README.md says nothing of {sorted(missing)} in {package.name}/."


def test_what_the_readme_names_is_there():
    named = entries() | {ROOT / path for path in re.findall(r"`((?:infoprompt|launcher)/[\w/.]+)`", README)}
    assert len(named) > 60
    assert [path for path in named if not path.exists()] == []


def test_the_reading_order_has_the_files_lengths_to_a_tenth():
    assert len(READING) == 8
    for _, path, said in READING:
        lines = len((ROOT / path).read_text().splitlines())
        assert abs(int(said) - lines) <= max(10, lines // 10), (
            f"README.md says {said} lines for {path}; it has {lines}."
        )


def test_each_file_of_the_reading_order_has_what_it_is_read_for():
    for call, path, _ in READING:
        tree = ast.parse((ROOT / path).read_text())
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert set(re.findall(r"`(\w+)`", call)) - {"backward"} <= functions, path
