"""The report page in a real browser, and what axe-core says of it for who does not see it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lab import nocodb
from lab.images import FOLDER
from tests.unit.monitoring.test_report import (  # noqa: F401 - fixtures
    HOSTILE,
    NOW,
    Elements,
    history,
    inventory,
    page_of,
)

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(300)]
AXE = "axe-core@4.10.3"
RUN = """<script>%s</script><script>
addEventListener('load', () => axe.run(document, {resultTypes: ['violations']}).then(found => {
  const said = document.createElement('pre');
  said.id = 'axe';
  said.textContent = JSON.stringify(found.violations.map(
    one => one.id + ': ' + one.nodes.slice(0, 3).map(node => node.html).join(' ')));
  document.body.append(said);
}));
</script></body>"""


class Step:
    def doing(self, line: str) -> None:
        print(line)


@pytest.fixture(scope="module")
def axe(tmp_path_factory) -> str:
    """The source of axe-core, from npm."""
    folder = tmp_path_factory.mktemp("axe")
    step = Step()
    node, npm = nocodb.install_node(FOLDER / "nocodb/node.lock", folder / "node", step)  # type: ignore[arg-type]
    subprocess.run(
        [node, npm, "--prefix", folder, "install", "--ignore-scripts", "--no-audit", AXE],
        check=True, timeout=120, cwd=folder,
    )  # fmt: skip
    source = (folder / "node_modules/axe-core/axe.min.js").read_text()
    shutil.rmtree(folder)
    return source


def browser(page: Path, folder: Path, *flags: str) -> str:
    """The page as the browser has it in the end."""
    words = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={folder}/data",
    ]
    words += [*flags, "--virtual-time-budget=20000", "--dump-dom", page.as_uri()]
    done = subprocess.run(
        ["chromium", *words], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


def test_what_a_person_sees(history, tmp_path):  # noqa: F811
    file = tmp_path / "report.html"
    file.write_text(page_of(history, notes=[HOSTILE]))
    seen = Elements(browser(file, tmp_path))
    assert "All is well" in seen.text
    assert "Database nocodb" in seen.text
    assert seen.names.count("svg") == 4
    assert "script" not in seen.names
    assert "window.hacked=1" in seen.text


@pytest.mark.parametrize("flags", [(), ("--force-dark-mode", "--window-size=380,800")])
def test_it_can_be_used_without_seeing_it(history, axe, tmp_path, flags):  # noqa: F811
    page = page_of(
        history,
        audit=[{"time": "t", "who": "w", "command": "c", "outcome": "failed", "text": "x"}],
    )
    without_policy = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    file = tmp_path / "report.html"
    file.write_text(without_policy.replace("</body>", RUN % axe.replace("</script", "<\\/script")))
    dom = browser(file, tmp_path, *flags)
    found = re.search(r'<pre id="axe">(.*?)</pre>', dom, re.S)
    assert found, "axe-core has not run"
    assert json.loads(Elements(found[1]).text) == []
