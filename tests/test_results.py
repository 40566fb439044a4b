"""Results are values: they read as a line or two, go through pickle whole, and become tables."""

from __future__ import annotations

import copy
import json
import pickle
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch

from nla_sdk import Activations, Explanation, Results, RoundTrip, Score
from nla_sdk.errors import InputError

SCORE = Score(cosine=0.93712, mse=0.12576, fve=0.46611, matched=True)


def explanation(**changes) -> Explanation:
    return Explanation("a <b>cat</b>", raw="<explanation>a <b>cat</b>", status="truncated", tokens=7, **changes)


def trip(cosine: float = 0.5, **changes) -> RoundTrip:
    fields = {"fve": None, "matched": True, "explanation": explanation(), "activation": torch.ones(3)} | changes
    return RoundTrip(cosine=cosine, mse=2 - 2 * cosine, reconstruction=torch.arange(3.0), **fields)


# --- an explanation -----------------------------------------------------------------------------------------------
def test_an_explanation_is_a_str_wherever_one_is_needed():
    text = explanation()
    assert text == "a <b>cat</b>" and f"{text}" == str(text) == "a <b>cat</b>"
    assert type(str(text)) is str and {text: 1}["a <b>cat</b>"] == 1
    assert json.loads(json.dumps([text])) == [text]
    assert pa.array([text], pa.string()).to_pylist() == [text]


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
@pytest.mark.parametrize("protocol_of", [explanation(), explanation(score=SCORE, best_of=8)])
def test_an_explanation_is_whole_after_pickle_and_copy(again, protocol_of):
    found = again(protocol_of)
    assert type(found) is Explanation and found == protocol_of and vars(found) == vars(protocol_of)


def test_an_explanation_of_plain_text_is_one_that_came_to_its_end():
    text = Explanation("a cat")
    assert (text.raw, text.status, text.tokens, text.score, text.best_of) == ("a cat", "ok", 0, None, 1)


def test_at_a_prompt_an_explanation_reads_as_text_and_says_what_is_unusual():
    assert repr(Explanation("it's")) == repr("it's")
    assert repr(explanation()) == "'a <b>cat</b>' [truncated]"
    chosen = explanation(score=SCORE, best_of=8)
    assert repr(chosen) == "'a <b>cat</b>' [truncated; best of 8: cosine=0.9371, mse=0.1258, fve=0.4661]"


# --- the others ---------------------------------------------------------------------------------------------------
def test_a_score_and_a_round_trip_read_as_a_line_or_two():
    assert repr(SCORE) == "Score(cosine=0.9371, mse=0.1258, fve=0.4661)"
    assert repr(Score(0.5, 1.0, None, False)) == "Score(cosine=0.5000, mse=1.0000, matched=False)"
    assert repr(trip()) == "RoundTrip(cosine=0.5000, mse=1.0000)\n  'a <b>cat</b>' [truncated]"
    best = trip(explanation=Explanation("a cat", score=SCORE, best_of=4))
    assert repr(best) == "RoundTrip(cosine=0.5000, mse=1.0000, best of 4)\n  'a cat'"
    assert (best.status, best.raw, best.best_of) == ("ok", "a cat", 4)


def test_activations_read_as_a_line_however_many_there_are():
    few = Activations(torch.ones(2, 640), ["<bos>", "The"], [0, 1], [0, 0], 12)
    assert repr(few) == "Activations(2 × 640, layer 12, at '<bos>' 'The')"
    many = Activations(torch.ones(400, 640), [f"t{at}" for at in range(400)], list(range(400)), [0] * 400, 12)
    assert repr(many).endswith("'t6' 't7' … 't399')") and len(repr(many)) < 120


def test_a_list_of_results_shows_one_a_line_and_says_how_many_it_leaves_out():
    assert repr(Results([Explanation("a"), Explanation("b")])) == "['a',\n 'b']"
    assert repr(Results([])) == "[]"
    lines = repr(Results(Explanation(str(at)) for at in range(30))).splitlines()
    assert len(lines) == 11 and lines[-1] == " … 20 more]"
    assert Results([Explanation("a")]) == ["a"], "it is a list"


def test_a_part_of_a_list_of_results_is_one_too():
    results = Results(Explanation(str(at)) for at in range(4))
    assert isinstance(results[:2], Results) and results[:2] == ["0", "1"] and isinstance(results[0], Explanation)


@pytest.mark.parametrize(
    "result", [explanation(), trip(), Results([explanation()]), Results([Results([explanation()] * 2)])]
)
def test_in_a_notebook_what_a_model_wrote_is_text_and_no_markup(result):
    page = result._repr_html_()
    assert "a &lt;b&gt;cat&lt;/b&gt;" in page and "<b>" not in page
    assert page.startswith("<table>") and "truncated" in page


def test_in_a_notebook_scores_and_activations_are_small_tables():
    assert "<td>0.4661</td>" in SCORE._repr_html_()
    many = Activations(torch.ones(400, 4), ["<s>"] * 400, list(range(400)), [0] * 400, 12)._repr_html_()
    assert "<td>&lt;s&gt;</td><td>2.0</td>" in many and "390 more" in many and len(many) < 2000


# --- tables -------------------------------------------------------------------------------------------------------
def test_round_trips_make_a_table_in_the_columns_of_the_commands():
    table = Results([trip(0.5), trip(0.25)]).to_arrow()
    assert table["cosine"].to_pylist() == [0.5, 0.25]
    assert table["api_explanation"].to_pylist() == ["a <b>cat</b>"] * 2
    assert table["explanation_status"].to_pylist() == ["truncated"] * 2
    assert table.schema.field("fve").type == pa.float64() and table["fve"].null_count == 2
    assert table.schema.field("reconstruction").type == pa.list_(pa.float32(), 3)
    assert table["activation_vector"].to_pylist() == [[1.0] * 3] * 2


def test_a_data_frame_has_a_row_for_each_result():
    pytest.importorskip("pandas")
    frame = Results([trip(0.5), trip(0.25)]).to_pandas()
    assert list(frame.cosine) == [0.5, 0.25] and frame.matched.all()
    np.testing.assert_array_equal(frame.reconstruction[1], [0.0, 1.0, 2.0])
    beside = ["gain", "empty_cosine", "empty_fve", "mean_cosine", "mean_fve"]
    assert list(Results([SCORE]).to_pandas()) == ["cosine", "mse", "fve", *beside, "matched"]


def test_several_samples_of_an_activation_are_rows_that_say_whose_they_are():
    nested = Results([Results([Explanation("a"), Explanation("b")]), Results([Explanation("c"), Explanation("d")])])
    table = nested.to_arrow()
    assert table["row"].to_pylist() == [0, 0, 1, 1] and table["sample"].to_pylist() == [0, 1, 0, 1]
    assert table["api_explanation"].to_pylist() == ["a", "b", "c", "d"]


def test_explanations_that_were_chosen_carry_their_scores_into_the_table():
    table = Results([explanation(score=SCORE, best_of=8)]).to_arrow()
    assert table.select(["best_of", "cosine", "fve"]).to_pylist() == [{"best_of": 8, "cosine": 0.93712, "fve": 0.46611}]


def test_without_pandas_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="pip install pandas"):
        Results([SCORE]).to_pandas()


def test_lists_of_results_stay_what_they_are_when_copied_and_added():
    results = Results([Explanation("a"), Explanation("b")])
    assert type(results.copy()) is type(results + results) is Results
    assert (results + results).to_arrow().num_rows == 4 and results.copy() == results


def test_equal_results_are_equal_and_others_are_not():
    vectors = torch.arange(6.0).view(2, 3)

    def trip(**changes) -> RoundTrip:
        parts = {"cosine": 0.5, "mse": 1.0, "fve": 0.2, "matched": True, "explanation": Explanation("a cat")}
        return RoundTrip(**parts | {"activation": vectors[0], "reconstruction": vectors[1]} | changes)

    assert trip() == copy.deepcopy(trip()) and hash(trip()) == hash(copy.deepcopy(trip()))
    for other in (
        trip(cosine=0.6),
        trip(activation=vectors[1]),
        trip(activation=vectors),
        trip(explanation=Explanation("b")),
    ):
        assert trip() != other
    acts = Activations(vectors, ["a", "b"], [0, 1], [0, 0], 3)
    assert acts == copy.deepcopy(acts) != Activations(vectors, ["a", "b"], [0, 1], [0, 0], 4)
    assert acts != Activations(vectors + 1, ["a", "b"], [0, 1], [0, 0], 3) and acts != "acts"
