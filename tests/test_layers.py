"""Imports go down only, and what is heavy is imported late."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "memedit"
# Each layer may import from itself and from those before it.
LAYERS = [
    {"errors", "edit", "devices", "spread", "texts"},
    {
        "subjects",
        "exclusion",
        "int8",
        "encoder",
        "prefix",
        "pointer",
        "combiner",
        "loading",
        "pairs",
        "wording",
        "batches",
        "layout",
    },
    {"scope", "lm", "data", "metrics", "chat", "adapter"},
    {"memory"},
    {"methods"},
    {"demonstrations", "kept", "merging", "drift"},
    {"router"},
    {"asked", "explanation"},
    {"knowing"},
    {"edited"},
    {"evaluation", "scope_eval", "training", "locate", "harness"},
    {"bench", "demo", "doctor", "report"},
    {"cli", "__main__"},
]
NEVER = [
    ("methods", "memory"),
    ("methods", "demonstrations"),
    ("methods", "router"),
    ("methods", "scope"),
    ("memory", "lm"),
    ("data", "memory"),
]


def imports():
    for path in sorted(PACKAGE.rglob("*.py")):
        module = path.relative_to(PACKAGE).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                yield path, module, node.module or ""
            elif isinstance(node, ast.Import):
                yield from ((path, module, alias.name) for alias in node.names)


def test_every_module_has_its_layer():
    known = set().union(*LAYERS) | {"__init__"}
    assert {m for _, m, _ in imports()} <= known


def test_imports_go_down_only():
    level = {module: i for i, layer in enumerate(LAYERS) for module in layer}
    wrong = []
    for path, module, name in imports():
        parts = name.split(".")
        if module == "__init__" or parts[0] not in ("memedit", "train"):
            continue
        if parts[0] == "train" or (
            len(parts) > 1 and (level[parts[1]] > level[module] or (module, parts[1]) in NEVER)
        ):
            wrong.append((path.name, name))
    assert wrong == []


def test_commands_that_need_no_model_import_none():
    code = (
        "import sys; from memedit.cli import main\n"
        "for args in (['--help'], ['list', '--help'], ['methods'], ['list', '-m', 'nowhere']):\n"
        "    try: main(args)\n"
        "    except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'faiss', 'sentence_transformers', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
