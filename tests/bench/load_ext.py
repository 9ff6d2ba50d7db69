"""What `%load_ext magistral_nb` costs an IPython that has ipywidgets loaded, beside what it leaves for later.

    python tests/bench/load_ext.py [--runs 15]

Every run is a process of its own: it makes an IPython with ipywidgets (the first row, the price of any
notebook), and then does the one thing that its row says. CPU time is that of the process (time.process_time),
in milliseconds; the rows take turns, so that all see the same machine. The target is 25 ms for the second row.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version

TARGET = 25.0  # milliseconds
LATER = ("anywidget", "pandas", "openai", "matplotlib")  # imported by nobody before it is used

NOTEBOOK = """
import json, sys, time
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config
import ipywidgets
shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
ready, before = time.process_time(), set(sys.modules)
"""
SHOWN = """
print(json.dumps([ready * 1000, (time.process_time() - ready) * 1000, sorted(set(sys.modules) - before)]))
"""
ROWS = {
    "%load_ext magistral_nb": "shell.run_line_magic('load_ext', 'magistral_nb')",
    "the same, all names used": "import magistral_nb\nfor name in magistral_nb.__all__: getattr(magistral_nb, name)",
    **{f"import {name}": f"import {name}" for name in LATER if importlib.util.find_spec(name)},
}


def once(code: str) -> tuple[float, float, list[str]]:
    """CPU milliseconds until the notebook is ready, those of the code, and the modules that it imported."""
    script = NOTEBOOK + code + SHOWN
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    ready, cost, modules = json.loads(done.stdout.splitlines()[-1])
    return ready, cost, modules


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    ready: list[float] = []
    costs: dict[str, list[float]] = {row: [] for row in ROWS}
    imported: dict[str, list[str]] = {}
    for code in ROWS.values():
        once(code)  # bytecode and the disk's cache
    for _ in range(runs):
        for row, code in ROWS.items():
            before, cost, imported[row] = once(code)
            ready.append(before)
            costs[row].append(cost)

    packages = ", ".join(f"{name} {version(name)}" for name in ("ipython", "ipywidgets", *LATER) if spec(name))
    print(f"Python {platform.python_version()}, {packages}; {runs} runs\n")
    print(f"{'CPU, ms':<28}{'median':>9}{'best':>9}{'modules':>10}")
    print(f"{'IPython with ipywidgets':<28}{statistics.median(ready):>9.1f}{min(ready):>9.1f}")
    for row, values in costs.items():
        median, best = statistics.median(values), min(values)
        print(f"  + {row:<24}{median:>9.1f}{best:>9.1f}{len(imported[row]):>10}")
    ours, *_ = ROWS
    verdict = "within" if statistics.median(costs[ours]) <= TARGET else "OVER"
    print(f"\n{ours}: {verdict} the target of {TARGET:g} ms; it imports")
    for name in imported[ours]:
        print(f"  {name}")
    early = [name for name in LATER if name in imported[ours]]
    print(f"of {', '.join(LATER)}: {', '.join(early) or 'none'}")


def spec(name: str) -> bool:
    """Whether it is installed."""
    return importlib.util.find_spec("IPython" if name == "ipython" else name) is not None


if __name__ == "__main__":
    main()
