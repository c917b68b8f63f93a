"""Every query of the daemons, found by reading their modules, so that a new one cannot be missed.

A query is a text that begins with a verb of SQL and stands in a constant of a module or a class, by
itself or as a Statement.
"""

import ast
import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from servicedesk.wire import Statement
from tests.support.processes import PROJECT

PACKAGES = ("servicedesk", "ticketd", "relayd", "notifyd")
VERB = re.compile(r"\s*(WITH|SELECT|INSERT|UPDATE|DELETE|MERGE|TRUNCATE|LOCK|COPY|LISTEN|NOTIFY)\s")
CONSTANT = re.compile(r"[A-Z][A-Z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """`name` is Class.CONSTANT or package.module.CONSTANT, with the key of an entry behind it."""

    name: str
    text: str


def source_files() -> list[Path]:
    """The modules that may hold SQL; what a person starts by hand has none."""
    files = [path for package in PACKAGES for path in (PROJECT / package).rglob("*.py")]
    return sorted(path for path in files if path.name != "__main__.py")


def daemon_queries() -> list[Query]:
    """The queries of all modules, in order of their names."""
    found: dict[str, Query] = {}
    for path in source_files():
        module = importlib.import_module(_module_name(path))
        for query in _queries(module.__name__, module.__name__, vars(module)):
            assert query.name not in found, f"two queries are named {query.name}"
            found[query.name] = query
    return [found[name] for name in sorted(found)]


def nameless_sql() -> list[str]:
    """file:line of every text that begins as SQL and is not the value of a constant."""
    return [
        f"{path.relative_to(PROJECT)}:{line}"
        for path in source_files()
        for line in _nameless_lines(ast.parse(path.read_text(encoding="utf-8")))
    ]


def _module_name(path: Path) -> str:
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")


def _queries(owner: str, module: str, namespace: Mapping[str, object]) -> Iterator[Query]:
    for name, value in namespace.items():
        if isinstance(value, type) and value.__module__ == module:
            yield from _queries(value.__name__, module, vars(value))
        elif CONSTANT.fullmatch(name):
            yield from _texts(f"{owner}.{name}", value)


def _texts(name: str, value: object) -> Iterator[Query]:
    if isinstance(value, str) and VERB.match(value):
        yield Query(name=name, text=value)
    elif isinstance(value, Statement):
        yield Query(name=name, text=value.text)
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _texts(f"{name}[{key}]", entry)


def _arguments(value: ast.expr | None) -> list[ast.expr | None]:
    """The value itself, and what it is made from when it is a call."""
    return [value, *value.args] if isinstance(value, ast.Call) else [value]


def _nameless_lines(tree: ast.Module) -> Iterator[int]:
    bodies = [tree.body] + [node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    constants = {
        id(part)
        for body in bodies
        for statement in body
        if isinstance(statement, ast.Assign | ast.AnnAssign)
        for part in _arguments(statement.value)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        if VERB.match(node.value) and id(node) not in constants:
            yield node.lineno
