"""The plan as people see it."""

from __future__ import annotations

import dataclasses
import io

from serving.test_plan import H100, VLLM

from magistral_nb.serving.catalogue import RELEASES
from magistral_nb.serving.plan import Wishes, make_plan
from magistral_nb.views.plan_view import plan_html, show_plan

PLAN = make_plan(H100, RELEASES["2506"], Wishes(), VLLM)


def test_every_choice_is_shown_with_its_reason():
    out = io.StringIO()
    show_plan(PLAN, ["A note."], rich=False, stream=out)
    page = plan_html(PLAN, ["A note."])
    for choice in PLAN.choices:
        assert choice.why in out.getvalue()
        assert choice.value in page
    assert out.getvalue().endswith("A note.\n")


def test_a_folder_s_name_is_no_html():
    plan = dataclasses.replace(PLAN, title="/tmp/<img src=x onerror=alert(1)>")
    assert "<img" not in plan_html(plan, ["<script>"])
    assert "<script" not in plan_html(plan, ["<script>"])
