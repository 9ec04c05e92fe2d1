"""A real JupyterLab, a real Chromium: one server and one browser per session, one page per test."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import pytest
from support.accessibility import WCAG, violations

from workbench.lab_server import free_port, lab_command, lab_url, new_token, private_environment

REPOSITORY = Path(__file__).parents[2]
CHROMIUM_FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
    "--disable-component-update",
    "--disable-default-apps",
]


def chromium_path() -> str | None:
    """The system's Chromium, or ``None``."""
    names = (os.environ.get("KDW_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def skip_reason() -> str | None:
    """Why browser tests cannot run here, or ``None``."""
    try:
        import axe_playwright_python  # noqa: F401
        import playwright.sync_api  # noqa: F401
    except ImportError as error:
        return f"{error.name} (Python package) is not installed: pip install -e '.[dev]'"
    return None if chromium_path() else "no Chromium found: apt-get install chromium, or set KDW_CHROMIUM to its path"


@dataclass
class LabServer:
    """A running server: its project folder, port and token."""

    root: Path
    port: int
    token: str

    def url(self, path: str) -> str:
        return lab_url(self.port, self.token, path)

    def api(self, path: str, method: str = "GET") -> Any:
        request = urllib.request.Request(self.url(f"api/{path}"), method=method)
        with urllib.request.urlopen(request, timeout=20) as reply:
            body = reply.read()
        return json.loads(body) if body else None

    def write(self, name: str, *cells: str) -> str:
        """A new notebook with code cells; returns its path below the root."""
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(c) for c in cells],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        )
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, path)
        return name


def copy_project(root: Path) -> None:
    """The notebooks, in a folder of their own: nothing a test saves reaches the repository."""
    if (REPOSITORY / "notebooks").is_dir():
        shutil.copytree(
            REPOSITORY / "notebooks", root / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints", "runs")
        )


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabServer]:
    reason = skip_reason()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("lab")
    root = folder / "project"
    root.mkdir()
    copy_project(root)
    server = LabServer(root, free_port(), new_token())
    command = lab_command(
        root,
        server.port,
        server.token,
        start=None,
        browser=False,
        testing=True,
        allow_root=hasattr(os, "geteuid") and os.geteuid() == 0,
    )
    settings = {"KDCORE_CACHE": str(folder / "cache"), **os.environ, "OMP_NUM_THREADS": "1", "KDW_STATIC": "0"}
    environment = private_environment(folder / "jupyter", settings)
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for_server(server, process, folder / "server.log")
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)


def wait_for_server(server: LabServer, process: subprocess.Popen[bytes], log: Path, seconds: float = 90.0) -> None:
    """Return when the server answers; fail with its log when it does not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            server.api("status")
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    pytest.fail(f"JupyterLab did not answer within {seconds:.0f} s:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    reason = skip_reason()
    if reason:
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=chromium_path(), args=CHROMIUM_FLAGS)
        yield chromium
        chromium.close()


@dataclass
class Watch:
    """What must not happen on a page; ``lost_widgets``: JupyterLab may say that a kernel's widgets are gone."""

    port: int
    lost_widgets: bool = False
    console_errors: list[str] = field(default_factory=list)
    page_errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def attach(self, page: Any) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda e: self.page_errors.append(str(e)))
        page.on("request", lambda r: self._request(r.url))
        page.on("websocket", lambda s: self._request(s.url))

    def _console(self, message: Any) -> None:
        if message.type == "error" and not (self.lost_widgets and "widget model not found" in message.text):
            self.console_errors.append(f"{message.text} ({message.location})")

    def _request(self, url: str) -> None:
        inside = (f"http://127.0.0.1:{self.port}/", f"ws://127.0.0.1:{self.port}/", "data:", "blob:")
        if not url.startswith(inside):
            self.outside.append(url)

    def check(self) -> None:
        assert not self.outside, f"requests left the machine: {self.outside}"
        assert not self.page_errors, f"uncaught errors in the page: {self.page_errors}"
        assert not self.console_errors, f"errors in the browser's console: {self.console_errors}"


@dataclass
class Notebook:
    """An open notebook in the browser."""

    page: Any
    lab: LabServer
    path: str

    def run_all(self, timeout: float = 300.0) -> None:
        """Run every cell and wait until each has been executed (or one has failed) and the kernel is idle."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        failed = f"{_OUTPUTS}.some(o => o.output_type === 'error')"
        self.page.wait_for_function(
            f"() => {_KERNEL}?.status === 'idle' && ({failed} || {_CELLS}.every(c => c.executionCount !== null))",
            timeout=1000 * timeout,
        )

    def errors(self) -> list[str]:
        """Error outputs of all cells."""
        return self.page.evaluate(
            f"() => {_OUTPUTS}.filter(o => o.output_type === 'error').map(o => o.ename + ': ' + o.evalue)"
        )

    def stderr(self) -> list[str]:
        """What cells wrote to stderr."""
        return self.page.evaluate(
            f"() => {_OUTPUTS}.filter(o => o.output_type === 'stream' && o.name === 'stderr').map(o => "
            f"[].concat(o.text).join(''))"
        )

    def violations(self, selector: str) -> list[str]:
        """What axe-core finds wrong below ``selector``, a line per rule."""
        return violations(self.page, selector, rules=WCAG)

    def locate(self, selector: str) -> Any:
        return self.page.locator(f".jp-NotebookPanel:not(.lm-mod-hidden) {selector}")

    def kernel(self, code: str, timeout: float = 30.0) -> str:
        """Run code in the notebook's kernel beside the cells; returns what it printed."""
        return self.page.evaluate(
            """async ([code, ms]) => {
            const kernel = window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel;
            let text = '';
            const future = kernel.requestExecute({code, store_history: false});
            future.onIOPub = m => {
                if (m.header.msg_type === 'stream') text += m.content.text;
                if (m.header.msg_type === 'error') text += m.content.ename + ': ' + m.content.evalue;
            };
            const late = new Promise((_, no) => setTimeout(() => no(new Error('kernel did not answer')), ms));
            await Promise.race([future.done, late]);
            return text;
        }""",
            [code, 1000 * timeout],
        )

    def screenshot(self, name: str, selector: str | None = None) -> None:
        """Into the folder ``KDW_SCREENSHOTS``, where it is set."""
        folder = os.environ.get("KDW_SCREENSHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            target = self.locate(selector).first if selector else self.page
            target.screenshot(path=str(Path(folder) / f"{name}.png"))

    def screenshot_whole(self, name: str, height: int = 1400) -> None:
        """The notebook from top to bottom, one picture per screen, into ``KDW_SCREENSHOTS``."""
        if not os.environ.get("KDW_SCREENSHOTS"):
            return
        self.page.set_viewport_size({"width": 1100, "height": height})
        scroller = self.locate(".jp-WindowedPanel-outer").first
        for part in range(40):
            bottom = scroller.evaluate(
                """(e, y) => {
                e.scrollTop = y;
                return e.scrollTop + e.clientHeight >= e.scrollHeight - 2;
            }""",
                part * (height - 120),
            )
            self.page.wait_for_timeout(300)
            self.screenshot(f"{name}_{part:02d}")
            if bottom:
                break


_KERNEL = "window.jupyterapp.shell.currentWidget.context.sessionContext.session?.kernel"
_CELLS = (
    "[...window.jupyterapp.shell.currentWidget.content.model.cells]"
    ".filter(c => c.type === 'code' && c.sharedModel.getSource().trim())"
)
_OUTPUTS = f"{_CELLS}.flatMap(c => c.outputs.toJSON())"


@pytest.fixture
def open_notebook(lab: LabServer, browser: Any, request: pytest.FixtureRequest) -> Iterator[Callable[..., Notebook]]:
    """``open_notebook(path)`` -> :class:`Notebook`; afterwards the page must have been quiet, and its kernel is
    ended."""
    with _pages(lab, browser) as opened:
        yield opened


@contextmanager
def _pages(lab: LabServer, browser: Any) -> Iterator[Callable[..., Notebook]]:
    watches: list[Watch] = []
    contexts: list[Any] = []

    def opened(
        path: str, *, width: int = 1280, height: int = 900, dark: bool = False, lost_widgets: bool = False
    ) -> Notebook:
        if (REPOSITORY / path).is_file():  # an earlier test's page may have saved its outputs: their widgets are gone
            shutil.copyfile(REPOSITORY / path, lab.root / path)
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
        )
        contexts.append(context)
        page = context.new_page()
        watch = Watch(lab.port, lost_widgets)  # JupyterLab itself complains of widgets whose kernel is gone
        watches.append(watch)
        watch.attach(page)
        page.goto(lab.url(f"lab/tree/{path}?reset"), wait_until="domcontentloaded")
        page.wait_for_function("() => window.jupyterapp", timeout=60_000)
        page.evaluate("() => window.jupyterapp.restored")
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        page.wait_for_function(f"() => {_KERNEL}?.status === 'idle'", timeout=90_000)
        # the server remembers the theme that an earlier test chose: it is set either way
        theme = f"JupyterLab {'Dark' if dark else 'Light'}"
        page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
        page.wait_for_function(f"() => document.body.dataset.jpThemeLight === '{str(not dark).lower()}'")
        page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
        return Notebook(page, lab, path)

    try:
        yield opened
    finally:
        for context in contexts:
            context.close()
        for session in lab.api("sessions"):
            lab.api(f"sessions/{session['id']}", "DELETE")
    for watch in watches:
        watch.check()
