"""What a plan costs, on every simulated machine: CPU time, beside the limit of 50 ms.

    python tests/bench/planning.py [--runs 20]

A plan is a pure function; what comes before it (NVML, a folder, the hub) is not in it. Where no model is named, all of
the catalogue may be tried, and where nothing fits, every remedy is tried as well: those are the slow ones. CPU time is
that of the process (time.process_time), the least of the runs, in milliseconds.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "serving"))

from machines import CARDS, GIB, MACHINES, gpus, machine, vllm

from magistral_nb.errors import PlanRefused
from magistral_nb.serving.catalogue import in_order
from magistral_nb.serving.engine import VLLM_VERSION
from magistral_nb.serving.planner import default_profile, make_plan
from magistral_nb.serving.wishes import Wishes

LIMIT = 50.0  # milliseconds
FULL = "8 x L4, full"


def once(hardware, name):
    """CPU milliseconds of one plan, and how it ended."""
    wishes, engine = Wishes(model=name), vllm(VLLM_VERSION)
    profile = next((each for each in in_order(gpu=True) if each.name == name), None)
    began = time.process_time()
    try:
        title = make_plan(hardware, profile or default_profile(hardware, wishes, engine), wishes, engine).model
    except PlanRefused:
        title = "refused"
    return (time.process_time() - began) * 1000, title


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    named = in_order(gpu=True)[0].name
    print(f"magistral_nb {version('magistral_nb')}, Python {platform.python_version()}, least of {runs} runs, CPU ms")
    print(f"{'machine':<26} {'no model named':>15}  {'takes':<34} {named:>14}")
    slowest = 0.0
    for label, hardware in {**MACHINES, FULL: machine(gpus(CARDS["L4"], 8, held=21 * GIB))}.items():
        unnamed = [once(hardware, None) for _ in range(runs)]
        by_name = min(once(hardware, named)[0] for _ in range(runs))
        least = min(cost for cost, _ in unnamed)
        slowest = max(slowest, least, by_name)
        print(f"{label:<26} {least:>15.2f}  {unnamed[0][1][:34]:<34} {by_name:>14.2f}")
    print(f"the slowest takes {slowest:.1f} ms, the limit is {LIMIT:.0f} ms")


if __name__ == "__main__":
    main()
