"""What the end-to-end tests share: where things are, and a Chromium to look at them with."""

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BOOKS = sorted(path.name for path in ROOT.glob("*.ipynb"))  # the walkthrough, and the papers in miniature
# What a reader's kernel would see: nothing of what tests/conftest.py sets for the unit tests.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("MPLBACKEND", "PYTHONPATH", "TF_CPP_MIN_LOG_LEVEL")}
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="session")
def build():
    """The folder for what a person can look at afterwards."""
    folder = ROOT / "build"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def browser():
    """Chromium, driven by Playwright: $CHROMIUM, or the system's, or the one that `playwright install` fetched."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
    names = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, (name and shutil.which(name) for name in names)), None)
    with api.sync_playwright() as playwright:
        if not (found or Path(playwright.chromium.executable_path).exists()):
            pytest.skip("no Chromium: apt-get install chromium, or python -m playwright install chromium, or $CHROMIUM")
        chromium = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    """An empty page of its own, as wide as a laptop's screen."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    yield context.new_page()
    context.close()
