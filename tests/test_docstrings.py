"""Docstrings read in one pass: mechanical signs of sentences that need two."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Modules and packages whose docstrings these rules hold.
COVERED = [
    "distributional_ppo.py",
    "recurrent_distributional_ppo.py",
    "upgd.py",
    "quantile_critic",
    "market_regimes/prices",
    "market_regimes/tune",
    "market_regimes/compare",
    "market_regimes/config.py",
    "market_regimes/files.py",
]

MOST_WORDS = 25
HEADLESS = {"What", "Of", "Those", "Whether", "Which", "How", "That", "Who"}
PREPOSITIONS = {"of", "in", "for", "by", "from", "with", "to", "at", "on"}
FIELD = re.compile(r"^\s*:(\w+)[^:]*:\s*", re.MULTILINE)


def docstrings(source):
    """Yield line and text of each docstring in Python source."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue

        text = ast.get_docstring(node)
        if text:
            yield node.body[0].lineno, text


def prose(text):
    """Return a docstring without literal blocks, which an indent after `::` marks."""
    lines = []
    in_block = False
    for line in text.splitlines():
        if in_block and line.strip() and not line.startswith(" "):
            in_block = False
        lines.append("" if in_block else line)
        if line.endswith("::"):
            in_block = True
    return "\n".join(lines)


def sentences(text):
    """Yield each sentence of a docstring. A paragraph, a field and an item of a list end one, too."""
    starts_anew = re.compile(r"\n\s*\n|\n(?=\s*:\w+[^:\n]*:)|\n(?=\s*(?:[-*]|\d+\.) )")
    for passage in starts_anew.split(prose(text)):
        passage = FIELD.sub("", passage)
        passage = re.sub(r"^\s*(?:[-*]|\d+\.) ", "", passage)
        for sentence in re.split(r"(?<=[.!?])\s+|(?<=[.!?][\")])\s+|::?\s*$", passage):
            if sentence.strip():
                yield " ".join(sentence.split())


def headless_starts(text):
    """Return the first sentence if it begins with a word that opens a subordinate clause."""
    first = next(sentences(text), "")
    if first.split(" ")[0] in HEADLESS:
        return [first]
    return []


def prepositional_fields(text):
    """Return each `:param x:` or `:return:` whose text begins with a preposition."""
    bad = []
    for field in re.finditer(r"^\s*:(?:param|return)s?\b[^:]*:\s*(\w+).*", text, re.MULTILINE):
        if field.group(1).lower() in PREPOSITIONS:
            bad.append(field.group().strip())
    return bad


def long_sentences(text):
    """Return each sentence of more words than a reader takes in at once."""
    return [sentence for sentence in sentences(text) if len(sentence.split()) > MOST_WORDS]


def findings(where, rule):
    """Return `path:line: sentence` for every break of a rule under a path of the repository."""
    path = ROOT / where
    files = [path]
    if path.is_dir():
        files = sorted(path.rglob("*.py"))

    marked = []
    for file in files:
        for line, text in docstrings(file.read_text(encoding="utf-8")):
            marked += [f"{file.relative_to(ROOT)}:{line}: {passage}" for passage in rule(text)]
    return marked


@pytest.mark.parametrize("where", COVERED)
@pytest.mark.parametrize("rule", [headless_starts, prepositional_fields, long_sentences])
def test_docstrings_keep_the_rule(where, rule):
    marked = findings(where, rule)

    assert not marked, f"{len(marked)} marked:\n" + "\n".join(marked)


@pytest.mark.parametrize(
    ("rule", "text", "marked"),
    [
        (headless_starts, "What came after each decision.", 1),
        (headless_starts, "Return what came after each decision.", 0),
        (headless_starts, "Whatever the flag says, the weight is 1.", 0),
        (prepositional_fields, "Sum.\n\n:param x: of the rollout, (T, E)\n:return: by name, the sums", 2),
        (prepositional_fields, "Sum.\n\n:param x: rewards of the rollout, (T, E)\n:raises ValueError: in doubt", 0),
        (prepositional_fields, "Sum.\n\n:param x: format of the file", 0),
        (long_sentences, "word " * 25 + "end.", 1),
        (long_sentences, "word " * 24 + "end. " + "word " * 24 + "end.", 0),
        (long_sentences, "Sum.\n\n:param x: " + "word " * 25 + "\n:param y: " + "word " * 26, 1),
        (long_sentences, "Formula::\n\n    " + "x + " * 40 + "\n\nEnd.", 0),
        (long_sentences, "word " * 15 + "is::\n\n    x\n\n" + "word " * 15 + "end.", 0),
    ],
)
def test_a_rule_marks_what_breaks_it(rule, text, marked):
    assert len(rule(text)) == marked
