"""The house rules of docs/architecture.md that a machine can check."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = {path.stem: path for path in (ROOT / "fabfile").glob("*.py") if path.stem != "__init__"}
STDLIB = sys.stdlib_module_names

# Lower rooms may not import higher ones. Every room is in here, once.
LAYERS = [
    ["errors", "units", "secret", "origin", "scram", "jsontext"],
    ["project"],
    [
        "schema",
        "yamltext",
        "vault_format",
        "keys",
        "pgdata",
        "dockervalues",
        "composekeys",
        "envfile",
    ],
    ["sets", "newest"],
    ["verify", "choosing"],
    ["report"],
    ["inventory"],
    ["retention", "hosts_file"],
    ["vault_password"],
    ["vault"],
    ["vault_edit"],
    ["rotation_vault"],
    ["refusals", "bucket_policies"],
    ["s3_connection"],
    ["bucket", "bucket_settings", "removal", "deep"],
    ["channel", "known_hosts"],
    ["ssh_config"],
    ["ssh_connection"],
    ["transport"],
    ["swarm", "compose"],
    ["localfiles"],
    ["cluster"],
    ["host_facts", "registry"],
    ["servicespec_parts", "servicemounts", "lock_text", "bootstrap_commands", "bootstrap_plan"],
    ["specfields"],
    ["placement", "convergence", "stacks", "servicespec", "lock", "audit"],
    ["preflight_data", "preflight_project"],
    ["backup_kits"],
    ["backup_host", "role_password", "archive", "app_pause"],
    ["restore", "server"],
    ["waiting", "preflight", "probe", "status", "plan", "releases", "change_script"],
    ["plan_text", "endings"],
    ["recorded"],
    ["deploy", "preparing", "drain", "exchange"],
    ["rotation", "bootstrap", "recovery"],
    ["doctor_facts"],
    ["doctor"],
    ["doctor_here", "doctor_swarm"],
]


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


def rooms_of(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("fabfile.")} & set(
        ROOMS
    )


def test_every_room_has_its_place():
    placed = [name for names in LAYERS for name in names]
    assert sorted(placed) == sorted(ROOMS)


def test_lower_rooms_do_not_import_higher_ones():
    level = {name: i for i, names in enumerate(LAYERS) for name in names}
    wrong = [
        f"{room} imports {other}"
        for room in level
        for other in rooms_of(ROOMS[room])
        if level[other] > level[room]
    ]
    assert wrong == []


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_nobody_imports_the_commands(room):
    assert not any(name.startswith("fabfile.commands") for name in imports(ROOMS[room]))


@pytest.mark.parametrize(
    ("library", "owner"),
    [
        ("fabric", {"ssh_connection"}),
        ("paramiko", {"ssh_connection", "ssh_config"}),
        ("boto3", {"s3_connection"}),
    ],
)
def test_one_room_owns_each_library(library, owner):
    files = [*ROOMS.values(), *(ROOT / "fabfile" / "commands").glob("*.py")]
    users = {path.stem for path in files for name in imports(path) if name.split(".")[0] == library}
    assert users == owner


def test_the_bucket_never_uses_ssh_and_verify_does_no_io():
    assert "transport" not in rooms_of(ROOMS["bucket"])
    outside = {n.split(".")[0] for n in imports(ROOMS["verify"])} - {"fabfile"}
    pure = {"__future__", "collections", "dataclasses", "datetime", "enum", "statistics", "typing"}
    assert outside <= pure | {"re", "math"}


def test_what_judges_does_no_io():
    for room in ("retention",):
        outside = {name.split(".")[0] for name in imports(ROOMS[room])} - {"fabfile"}
        assert outside <= {"__future__", "collections", "dataclasses", "datetime", "typing"}, room
        assert rooms_of(ROOMS[room]) & {"transport", "s3_connection", "bucket"} == set()


def test_only_commands_print():
    for room, path in ROOMS.items():
        calls = [
            node.lineno
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "print"
        ]
        assert calls == [], f"fabfile/{room}.py prints at lines {calls}"


def test_no_room_has_a_name_of_the_standard_library():
    # `fab` puts fabfile/ itself at the front of sys.path.
    assert set(ROOMS) & STDLIB == set()


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
