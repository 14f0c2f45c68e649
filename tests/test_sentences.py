"""Sentences of 30 words at most, where people read them: documents, docstrings, comments, messages and help."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "cluster" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
MODULES = [path for package in ("infoprompt", "launcher") for path in sorted((ROOT / package).rglob("*.py"))]
MOST_WORDS = 30
SAYS = {"debug", "info", "warning", "error", "exception", "say", "echo", "warn", "Option", "Argument", "add_argument"}


def paragraphs(text: str) -> Iterator[str]:
    """Prose without code blocks; the items of a list and the cells of a table stand alone, a link is its words."""
    text = re.sub(r"^```.*?^```", "\n\n", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^\|(.*)\|$", lambda row: row[1].replace("|", "\n\n") + "\n", text, flags=re.MULTILINE)
    text = re.sub(r"^\s*(?:-|\*|\d+\.|#+) ", "\n\n", text, flags=re.MULTILINE)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    yield from re.split(r"\n\s*\n", text)


def long_sentences(text: str) -> list[str]:
    sentences = re.split(r"(?<=[.!?])\s+", " ".join(text.split()))
    return [sentence for sentence in sentences if len(sentence.split()) > MOST_WORDS]


def messages(tree: ast.Module) -> Iterator[str]:
    """What is raised, logged or said, and the help of commands and options; a value in it counts as one word."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            yield from _texts(node.exc)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            if name in SAYS or name.endswith("Error"):
                yield from _texts(node)
        elif isinstance(node, ast.FunctionDef) and any("command" in ast.unparse(it) for it in node.decorator_list):
            yield from (ast.get_docstring(node) or "").split("\n\n")


def docstrings(tree: ast.Module) -> Iterator[str]:
    """Paragraphs of all docstrings, those of settings too; formulas, tables and shapes are left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            text, _, _ = inspect.cleandoc(node.value.value).partition("Shapes:")
            yield from re.split(r"\n\n|\n(?=\s|\w+:)", re.sub(r"^    .*|^.*\S  .*", "\n", text, flags=re.MULTILINE))


def comments(source: str) -> Iterator[str]:
    """Comments, those on lines of their own below each other as one."""
    for block in re.findall(r"(?:^ *# .*\n)+|(?<=\S)  # .*\n", source, flags=re.MULTILINE):
        yield re.sub(r"^ *# ", "", block, flags=re.MULTILINE)


def _texts(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "0" for part in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    else:
        for child in ast.iter_child_nodes(node):
            yield from _texts(child)


def test_a_long_sentence_is_found():
    words = " ".join(["word"] * 31)
    document = f"# A title\n\nShort. {words}.\n\n| a cell | {words} |\n| --- | --- |\n\n```\n{words} code\n```\n"
    assert [found for part in paragraphs(document) for found in long_sentences(part)] == [f"{words}.", words]
    code = f'raise ConfigError(f"optim.lr is {{lr}}. {words}")\nlog.info("{words} logged")\nkept = "{words} kept"'
    found = {sentence for text in messages(ast.parse(code)) for sentence in long_sentences(text)}
    assert found == {words, f"{words} logged"}
    code = f'class A:\n    c: int\n    """{words}."""\n\n    def b(self):\n        """Read.\n\n        {words}."""'
    found = [sentence for text in docstrings(ast.parse(code)) for sentence in long_sentences(text)]
    assert found == [f"{words}.", f"{words}."]
    code = f"    # {words[:50]}\n    # {words[50:]}\n    a = 1  # {words}\n"
    assert [sentence for text in comments(code) for sentence in long_sentences(text)] == [words, words]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_have_short_sentences(path):
    assert [found for part in paragraphs(path.read_text()) for found in long_sentences(part)] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_modules_have_short_sentences(path):
    source = path.read_text()
    tree = ast.parse(source)
    texts = [*messages(tree), *docstrings(tree), *comments(source)]
    assert [sentence for text in texts for sentence in long_sentences(text)] == []
