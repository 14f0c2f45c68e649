"""The letters of shapes mean what docs/shapes.md says, in every module of the library."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "infoprompt").rglob("*.py"))
EVERYWHERE, KERNELS = (ROOT / "docs" / "shapes.md").read_text().split("## In infoprompt/kernels")
OTHER_NAMES = {"next_power_of_2", "steps_to_95", "sm_90"}


def legend(file: str) -> dict[str, set[str]]:
    """What each letter may mean in a file."""
    text = KERNELS if file.startswith("infoprompt/kernels/") else EVERYWHERE
    found: dict[str, set[str]] = {}
    for letter, meanings, where in re.findall(r"^\| ([A-Z]) \| (.+?) \| (.*?) ?\|$", text, flags=re.MULTILINE):
        places = re.findall(r"`(infoprompt/.+?)`", where)
        if not places or file.startswith(tuple(places)):
            found.setdefault(letter, set()).update(meanings.split(", "))
    return found


def said(file: str) -> list[tuple[str, str]]:
    """Letters and meanings of the module's docstring; remarks in brackets are left out."""
    docstring = ast.get_docstring(ast.parse((ROOT / file).read_text())) or ""
    _, _, shapes = docstring.partition("Shapes:")
    paragraph = re.sub(r"\s*\([^)]*\)", "", " ".join(shapes.split("\n\n")[0].split()))
    return [(letter, meaning) for letter, meaning in re.findall(r"\b([A-Z]) ([^,.]+)", paragraph)]


def test_the_legend_is_read():
    assert legend("infoprompt/objective/noise.py")["K"] == {"negatives"}
    assert legend("infoprompt/model/shared.py")["K"] == {"head width"}
    assert legend("infoprompt/kernels/gathered.py")["N"] == {"rows"}
    assert sum(bool(said(file)) for file in FILES) > 50


@pytest.mark.parametrize("file", [file for file in FILES if said(file)])
def test_a_module_means_by_a_letter_what_the_legend_says(file):
    letters = legend(file)
    for letter, meaning in said(file):
        assert letter in letters, f"{letter} of {file} is not in docs/shapes.md"
        assert meaning.startswith(tuple(letters[letter])), f"{letter} in {file}: {meaning}, not {letters[letter]}"


@pytest.mark.parametrize("file", FILES)
def test_names_end_in_letters_of_the_legend(file):
    letters = set(legend(file))
    tokens = tokenize.generate_tokens(io.StringIO((ROOT / file).read_text()).readline)
    names = {token.string for token in tokens if token.type == tokenize.NAME} - OTHER_NAMES
    shapes = {name: match[1] for name in names if (match := re.fullmatch(r"\w*[a-z0-9]_([A-Z0-9]+)", name))}
    strange = {name for name, shape in shapes.items() if not set(re.sub(r"\d", "", shape)) <= letters}
    assert not strange, f"{sorted(strange)} of {file} end in letters that docs/shapes.md does not have for it."
