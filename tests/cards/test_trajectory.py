"""Cards of the checkpoints of one run."""

from __future__ import annotations

import re

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from cards import About, CardError, Checkpoint, render
from cards.figures.drawing import trajectory
from nla_sdk.evaluation.reading import digest
from tests.cards.samples import contract, measured, published


def test_a_trajectory_has_one_row_a_checkpoint_and_its_warnings_first(tmp_path):
    found, _ = measured()
    subject = published().subject.model_copy(update={"layer": 3, "d_model": 24})
    blind = published(subject=subject)
    steps = [
        Checkpoint("step_50", contract("av")),
        Checkpoint("step_100", contract("av"), blind),
        Checkpoint("step_150", contract("av"), found),
    ]
    made = trajectory([(one.name, one.evaluation) for one in steps], tmp_path)
    assert {path.name for path in made} == {"trajectory.png", "trajectory.svg"}
    card = render(
        contract("av"), kind="trajectory", about=About("ada/cat-run", checkpoints=steps, figures=("trajectory",))
    )
    body = card.body
    assert "1 of 3 checkpoints is not evaluated" in body
    assert "step\\_100: content-blind" in body and body.index("content-blind") < body.index("| checkpoint |")
    assert f"| step\\_150 | reads-content | 60 of 60 | {found.round_trip.fve.value:.3f}" in body
    assert "| step\\_50 | not evaluated |" in body and "figures/trajectory.png" in body
    assert 'from_pretrained("ada/cat-run/step_150")' in body
    assert "model-index" not in card.text and ModelCard(card.text).data.license == "gemma"


def test_a_trajectory_nobody_evaluated_draws_and_claims_nothing(tmp_path):
    steps = [Checkpoint(f"step_{at}", contract("ar")) for at in (1, 2)]
    assert trajectory([(one.name, None) for one in steps], tmp_path) == []
    body = render(contract("ar"), kind="trajectory", about=About("ada/cat-run", checkpoints=steps)).body
    assert "**Not evaluated.**" in body and "reads-content" not in body


def test_the_boxes_of_a_trajectory_are_boxes_of_their_own():
    blind = published(subject=published().subject.model_copy(update={"layer": 3, "d_model": 24}))
    steps = [Checkpoint("a", contract("av")), *(Checkpoint(name, contract("av"), blind) for name in "bc")]
    about = About("ada/cat-run", pair="ada/cat-ar", checkpoints=steps)
    body = render(contract("av"), kind="trajectory", about=about).body
    boxes = re.findall("<blockquote>(.*?)</blockquote>", MarkdownIt().render(body), re.DOTALL)
    assert len(boxes) == 3 and all(box.count("[!WARNING]") == 1 for box in boxes)
    assert "[ada/cat-ar](https://huggingface.co/ada/cat-ar)" in body
    assert 'from_pretrained("ada/cat-run/c", "ada/cat-ar")' in body
    assert f"| b, its evaluation's own SHA-256 | {digest(blind)} |" in body and "| lr | 0.0005 |" in body
    assert "```bibtex" in body and "url = {https://huggingface.co/ada/cat-run}" in body


def test_a_checkpoint_with_another_layers_evaluation_is_refused():
    steps = [Checkpoint("step_1", contract("av"), published())]
    with pytest.raises(CardError, match="`layer` is 23"):
        render(contract("av"), kind="trajectory", about=About("ada/cat-run", checkpoints=steps))
