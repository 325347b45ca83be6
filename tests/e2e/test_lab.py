"""The walkthrough in JupyterLab, in a browser: open it, run all cells, look, and play with the explorer.

It is trained on fewer images for one epoch, which changes no figure's size and no widget.
"""

import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import papermill
import pytest
from conftest import ENVIRONMENT, ROOT

NAME = "Model_pruning_exploration.ipynb"
SMALL = {"EXAMPLES": 6_000, "EPOCHS": 1, "TUNE_EPOCHS": 1}
LONGEST = 45 * 60  # seconds for all cells, many times what they take

# The code cells as JupyterLab has them in memory: those that are not on the screen are not in the page.
CELLS = """() => [...jupyterapp.shell.currentWidget.content.model.cells]
  .filter(cell => cell.type === 'code')
  .map(cell => [cell.executionCount, cell.outputs.toJSON()])"""
READY = "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
RUN = "() => { jupyterapp.commands.execute('notebook:run-all-cells').then(() => { window.finished = true }) }"
SCROLL = """() => {
  const notebook = jupyterapp.shell.currentWidget.content;
  const explores = cell => cell.model.type === 'code' && cell.model.sharedModel.source.includes('interact(');
  notebook.activeCellIndex = notebook.widgets.findIndex(explores);
  return notebook.scrollToCell(notebook.activeCell, 'start');
}"""
LISTEN = """() => {
  const start = performance.now();
  const picture = () => document.querySelector('.widget-interact img')?.src;
  const before = picture();
  window.answer = new Promise((done, failed) => {
    const look = () => (picture() ?? before) === before ? requestAnimationFrame(look) : done(performance.now() - start);
    look();
    setTimeout(() => failed(new Error('the picture did not change in a minute')), 60_000);
  });
}"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory, build):
    """The address of the notebook in a JupyterLab on a free port, over copies of the files, with default settings."""
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "data", folder / "data")
    shutil.copy(ROOT / "pruning_utils.py", folder)
    papermill.execute_notebook(ROOT / NAME, folder / NAME, SMALL, prepare_only=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token, log = secrets.token_hex(16), build / "jupyterlab.log"
    options = [f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    options += ["--no-browser", "--allow-root", "--expose-app-in-browser"]
    options += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    kinds = ("JUPYTER_CONFIG", "JUPYTER_DATA", "JUPYTER_RUNTIME", "JUPYTERLAB_SETTINGS", "JUPYTERLAB_WORKSPACES")
    environment = ENVIRONMENT | {f"{kind}_DIR": str(home / kind) for kind in kinds}
    news = home / "JUPYTERLAB_SETTINGS" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text('{"fetchNews": "false"}')  # no question about it in the picture
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            **{"cwd": folder, "env": environment, "stdout": file, "stderr": file},
        )
        try:
            for _ in range(600):
                assert server.poll() is None, log.read_text()[-3000:]
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/lab/tree/{NAME}?token={token}"
        finally:
            server.send_signal(signal.SIGTERM)  # ends its kernels, too
            server.wait(60)


def test_runs_and_explores(lab, page, build):
    page.goto(lab)
    page.wait_for_function(READY, timeout=120_000)
    start = time.monotonic()
    page.evaluate(RUN)
    page.wait_for_function("() => window.finished", timeout=LONGEST * 1_000, polling=1_000)
    seconds, cells = time.monotonic() - start, page.evaluate(CELLS)

    outputs = [output for _, outputs in cells for output in outputs]
    assert not [f"{output['ename']}: {output['evalue']}" for output in outputs if output["output_type"] == "error"]
    assert [count for count, _ in cells] == list(range(1, len(cells) + 1))
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 12

    page.evaluate(SCROLL)
    slider = page.locator(".widget-interact").get_by_role("slider")
    slider.focus()
    times = []
    for key in ["ArrowLeft"] * 10 + ["ArrowRight"] * 10:
        page.evaluate(LISTEN)
        page.keyboard.press(key)
        times.append(page.evaluate("() => window.answer"))
    page.screenshot(path=build / "jupyterlab.png")
    median = sorted(times)[len(times) // 2]
    print(f"\nall cells in JupyterLab: {seconds:.0f} s; the explorer: {median:.0f} ms (at most {max(times):.0f})")
    assert median < 500
