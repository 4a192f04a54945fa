"""Settings that must stand before jax is imported, and the small trained run that many tests share."""

import gc
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

# Compiled programs are kept between runs of the tests; most of their time is compiling.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# They run shorter than they compile, so XLA optimizes little, also in processes that a test starts. The fixture
# `optimized` compiles as in use; JAX_DISABLE_MOST_OPTIMIZATIONS=0 does so for all tests.
if os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") != "0":
    # XLA's older emitter of fused loops compiles in half the newer one's time. An XLA without the option ignores it.
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters")

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "crlviz", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("crlviz")

# jax leaves millions of objects alive, which Python's collector goes through again and again: 8% of the tests' time.
gc.set_threshold(20_000, 20, 20)

# A shell that runs the tests in the background has them ignore Ctrl-C, and nohup SIGHUP; some tests send both.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


# Each takes more than a minute. They begin first, so that no worker waits at the end while another is amid one of them.
LONGEST = (
    "test_ray_cluster.py",
    "test_a_process_killed_while_it_trains",
    "test_it_learns[cmd]",
    "test_demo_from_training_to_page",
    "test_full_disk",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not any(name in item.nodeid for name in LONGEST))


@pytest.fixture(scope="module")
def optimized() -> Iterator[None]:
    """Compile with all optimizations, as in use, here and in processes that a test starts.

    The emitter of fused loops is as in use in those processes alone: XLA reads its options once.
    """
    import jax

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
        if "new_fusion_emitters" in os.environ.get("XLA_FLAGS", ""):
            patch.delenv("XLA_FLAGS")
        before = jax.config.values["jax_disable_most_optimizations"]
        jax.config.update("jax_disable_most_optimizations", False)
        yield
        jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of recorded truths."""
    return Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of the toy config; read it, copy it, never change it."""
    from tests.helpers.shared_programs import shared
    from tests.helpers.toys import toy_config
    from training.trainer import train

    with shared():
        return train(toy_config(), tmp_path_factory.mktemp("runs") / "toy", command=["crlviz", "train"], progress=False)


@pytest.fixture(scope="session")
def toy_agent(toy_run: Path):
    import crlviz

    return crlviz.load(toy_run)


@pytest.fixture
def crlviz(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Run the command in this process; returns exit code, stdout and stderr."""
    from crlviz import cli

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["crlviz", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as error:
            code = error.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """A headless chromium, one for all tests of pages."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("there is no chromium to open the page in: apt-get install chromium")
    quiet = ["no-first-run", "disable-background-networking", "disable-component-update", "disable-sync"]
    flags = [f"--{flag}" for flag in ("no-sandbox", "disable-gpu", "disable-quic", *quiet)]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser) -> Iterator:
    """Opens a file in the browser without a network.

    At the end, it must have asked for nothing else nor complained, and fit a desktop's and a phone's window.
    """
    context = browser.new_context(offline=True, viewport={"width": 1200, "height": 900})
    asked, complaints, wide = [], [], []

    def is_complaint(message) -> bool:
        return message.type == "error" or message.text.startswith("WARN")  # Vega's

    def opened(path: Path):
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text) if is_complaint(message) else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.absolute().as_uri())
        return page

    yield opened
    for page in context.pages:
        for width in (1280, 420):
            page.set_viewport_size({"width": width, "height": 800})
            if (needed := page.evaluate("document.scrollingElement.scrollWidth")) > width:
                wide.append(f"{page.url} needs {needed} of {width} pixels")
    context.close()
    assert not complaints
    assert not wide
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:", "about:"))] == []
