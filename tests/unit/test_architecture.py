"""The house rules of docs/architecture.md that a machine can check."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FABFILE = ROOT / "fabfile"

# From the top to the bottom: a package imports only from itself and from those below it.
# docs/architecture.md shows it as a picture.
PACKAGES = [
    "commands",
    "terminal",
    "monitoring",
    "doctor",
    "adopt",
    "upgrade",
    "restore",
    "rotation",
    "nodes",
    "deploy",
    "backup",
    "wal",
    "swarm",
    "s3",
    "ssh",
    "vault",
    "config",
    "base",
]
MODULES = {
    ".".join(path.relative_to(FABFILE).with_suffix("").parts): path
    for path in FABFILE.glob("*/*.py")
    if path.stem != "__init__"
}


def imports(path: Path, *, typing_too: bool = False) -> set[str]:
    """Modules a file imports at run time, anywhere in it."""
    tree = ast.parse(path.read_text())
    skipped: set[ast.AST] = set()
    if not typing_too:
        for branch in ast.walk(tree):
            if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.dump(branch.test):
                skipped |= {inner for stmt in branch.body for inner in ast.walk(stmt)}
    found: set[str] = set()
    for item in ast.walk(tree):
        if item in skipped:
            continue
        if isinstance(item, ast.Import):
            found |= {alias.name for alias in item.names}
        elif isinstance(item, ast.ImportFrom) and item.module:
            found.add(item.module)
            found |= {f"{item.module}.{alias.name}" for alias in item.names}
    return found


def modules_of(name: str, *, typing_too: bool = False) -> set[str]:
    """The modules of ours that a module imports."""
    found = imports(MODULES[name], typing_too=typing_too)
    return {one.removeprefix("fabfile.") for one in found} & set(MODULES)


def package(module: str) -> str:
    return module.partition(".")[0]


def test_every_package_has_its_place_and_says_what_lives_there():
    assert sorted(PACKAGES) == sorted({package(name) for name in MODULES})
    assert list(FABFILE.glob("*.py")) == [FABFILE / "__init__.py"]
    for name in PACKAGES:
        text = (FABFILE / name / "__init__.py").read_text()
        assert len(text) > 40, name
        assert len(ast.parse(text).body) == 1, f"{name}/__init__.py is more than a docstring"


def test_packages_import_only_what_stands_below_them():
    level = {name: i for i, name in enumerate(PACKAGES)}
    wrong = [
        f"{module} imports {other}"
        for module in MODULES
        for other in modules_of(module, typing_too=True)
        if level[package(other)] < level[package(module)]
    ]
    assert wrong == []


def test_no_module_is_longer_than_a_person_reads_at_once():
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: n for name, n in lengths.items() if n > 300} == {}


def test_no_module_imports_itself_by_way_of_others():
    left = {module: modules_of(module) for module in MODULES}
    while free := [module for module, needs in left.items() if not needs & set(left)]:
        for module in free:
            del left[module]
    assert left == {}


@pytest.mark.parametrize(
    ("library", "owners"),
    [
        ("fabric", {"ssh.connection"}),
        ("paramiko", {"ssh.connection", "ssh.host_keys", "ssh.ssh_config", "ssh.tunnel"}),
        ("boto3", {"s3.connection"}),
        ("prometheus_client", {"monitoring.metrics"}),
        ("apprise", {"monitoring.notifications"}),
        ("pyrage", {"base.age_encryption"}),
    ],
)
def test_one_package_owns_each_library(library, owners):
    users = {
        module
        for module, path in MODULES.items()
        for name in imports(path)
        if name.split(".")[0] == library
    }
    assert users == owners


def test_the_bucket_never_uses_ssh():
    assert not any(package(name) == "ssh" for name in modules_of("backup.bucket"))


@pytest.mark.parametrize("module", ["backup.verify", "backup.retention", "backup.selection"])
def test_what_judges_does_no_io(module):
    outside = {name.split(".")[0] for name in imports(MODULES[module])} - {"fabfile"}
    pure = {"__future__", "collections", "dataclasses", "datetime", "enum", "statistics", "typing"}
    assert outside <= pure | {"re", "math"}
    assert not {package(name) for name in modules_of(module)} & {"ssh", "s3"}
    assert "backup.bucket" not in modules_of(module)


def test_only_commands_and_the_terminal_print():
    for module, path in MODULES.items():
        if package(module) in ("commands", "terminal"):
            continue
        calls = [
            node.lineno
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "print"
        ]
        assert calls == [], f"fabfile/{path.name} prints at lines {calls}"


def test_no_package_has_the_name_of_another_module():
    # `fab` puts fabfile/ itself at the front of sys.path.
    installed = {name.split(".")[0] for name in metadata.packages_distributions()}
    assert set(PACKAGES) & (set(sys.stdlib_module_names) | installed) == set()


def test_listing_commands_imports_nothing_heavy():
    code = "import sys, tasks; print('\\n'.join(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in run.stdout.split()}
    assert loaded & {"fabric", "paramiko", "boto3", "botocore", "rich", "cryptography"} == set()


def test_every_command_has_a_line_of_help_that_fits_a_terminal():
    code = (
        "from tasks import namespace\n"
        "for name in namespace.task_names:\n"
        "    print(name, (namespace[name].__doc__ or '').splitlines()[0], sep='|')"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = [line.split("|") for line in run.stdout.splitlines()]
    assert len(lines) >= 17
    widest = max(len(name) for name, _ in lines)
    # Invoke indents by 2, puts 3 between the columns, and wraps at 80 columns.
    wrong = [name for name, doc in lines if not doc.endswith(".") or widest + 5 + len(doc) > 79]
    assert wrong == []
