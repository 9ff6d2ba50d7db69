"""Reading what pip and uv say."""

import pytest
from hypothesis import given, strategies as st

from magistral_nb.serving.packages import Failure, Step, explain, read_line

LINES = [
    "Collecting numpy==2.3.5 (from -r lock.txt (line 9))",
    "  Downloading numpy-2.3.5-cp311-cp311-manylinux_2_28_x86_64.whl.metadata (62 kB)",
    "  Downloading numpy-2.3.5-cp311-cp311-manylinux_2_28_x86_64.whl (16.6 MB)",
    "Progress 8300000 of 16600000",
    "Progress 16600000 of 16600000",
    "  Using cached idna-3.20-py3-none-any.whl (68 kB)",
    "Processing /wheels/torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl",
    "Installing collected packages: numpy, idna, torch",
    "Successfully installed idna-3.20 numpy-2.3.5 torch-2.13.0+cpu",
]


# Of uv 0.13, where it is no terminal's.
UV_LINES = [
    "Using Python 3.11.7 environment at: env",
    "Resolved 3 packages in 2.50s",
    "Downloading torch (873.1MiB)",
    "Downloading nvidia-cudnn-cu12 (674.0MiB)",
    " Downloaded nvidia-cudnn-cu12",
    "Prepared 3 packages in 3m 51s",
    "Installed 3 packages in 1.94s",
    " + torch==2.10.0",
]


class TestProgress:
    def test_pips_lines(self):
        seen = [Step("packages", 0, 6)]
        for line in LINES:
            seen.append(read_line(seen[-1], line))
        assert [step.done for step in seen[1:]] == [0, 0, 1, 1, 1, 2, 3, 3, 6]
        assert seen[3].detail == "fetching numpy 2.3.5 (16.6 MB)"
        assert seen[4].detail == "fetching numpy 2.3.5 (16.6 MB), 50 %"
        assert seen[5].detail == "fetching numpy 2.3.5 (16.6 MB), 100 %"
        assert seen[7].detail == "fetching torch 2.13.0+cpu"
        assert seen[8].detail == "unpacking"

    def test_uvs_lines(self):
        seen = [Step("packages")]
        for line in UV_LINES:
            seen.append(read_line(seen[-1], line))
        assert [(step.done, step.total) for step in seen[1:]] == [(0, 0), *[(0, 6)] * 3, (1, 6), (3, 6), (6, 6), (6, 6)]
        assert seen[2].detail == "fetching 3 packages"
        assert seen[4].detail == "fetching nvidia-cudnn-cu12 (674.0MiB)"

    @given(st.lists(st.one_of(st.sampled_from(LINES + UV_LINES), st.text(max_size=40))), st.integers(0, 8))
    def test_never_backwards_and_never_too_far(self, lines, total):
        step = Step("packages", 0, total)
        for line in lines:
            after = read_line(step, line)
            assert step.done <= after.done <= after.total
            assert after.total == (step.total or after.total)
            step = after


class TestExplain:
    @pytest.mark.parametrize(
        ("lines", "failure"),
        [
            (
                [
                    "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
                    "",
                ],
                Failure("disk", "Could not install packages due to an OSError: [Errno 28] No space left on device"),
            ),
            (
                [
                    "WARNING: Retrying (Retry(total=0)) after connection broken by 'Name or service not known': /x",
                    "ERROR: Could not find a version that satisfies the requirement x (from versions: none)",
                    "ERROR: No matching distribution found for x",
                ],
                Failure(
                    "network",
                    "Retrying (Retry(total=0)) after connection broken by 'Name or service not known': /x",
                ),
            ),
            (
                [
                    "ERROR: Could not find a version",
                    "ERROR: No matching distribution found for x==1",
                    "[notice] new",
                ],
                Failure("missing", "No matching distribution found for x==1"),
            ),
            (
                ["ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "    Got 00"],
                Failure("hash", "THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE."),
            ),
            (
                [
                    "error: No solution found when resolving dependencies",
                    "  cause: Because there is no version of x",
                ],
                Failure("missing", "Because there is no version of x"),
            ),
            (
                [
                    "error: No solution found when resolving dependencies",
                    "  cause: Because only certifi<=2026.10.18 is available and vllm depends on certifi>=2026.10.19",
                    "         And because you require vllm==0.33.0, your requirements are unsatisfiable.",
                ],
                Failure(
                    "missing",
                    "Because only certifi<=2026.10.18 is available and vllm depends on certifi>=2026.10.19",
                ),
            ),
            (
                [
                    "  × No solution found when resolving dependencies:",
                    "  ╰─▶ Because there is no version of x and you require x, your requirements are unsatisfiable.",
                ],
                Failure(
                    "missing",
                    "Because there is no version of x and you require x, your requirements are unsatisfiable.",
                ),
            ),
            (
                [
                    "warning: `x-1.0-py3-none-any.whl` is missing an upload date, but user provided: 2026-04-20",
                    "error: No solution found when resolving dependencies",
                ],
                Failure(
                    "undated",
                    "warning: `x-1.0-py3-none-any.whl` is missing an upload date, but user provided: 2026-04-20",
                ),
            ),
            (
                ["ERROR: Index http://127.0.0.1/x/ does not provide upload-time metadata."],
                Failure("undated", "Index http://127.0.0.1/x/ does not provide upload-time metadata."),
            ),
            (["ERROR: something odd", "at the end"], Failure("other", "something odd")),
            (["Segmentation fault"], Failure("other", "Segmentation fault")),
            ([], Failure("other", "it said nothing")),
        ],
    )
    def test_cause_and_line(self, lines, failure):
        assert explain(lines) == failure
