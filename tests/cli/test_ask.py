"""`nla ask` and the layers of `nla explain`: the same answers as in Python."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from nla_sdk.cli.app import app
from nla_sdk.errors import (
    ForeignActivationError,
    ForeignActivationWarning,
    InputError,
    NotAnOracleError,
    UnseenValueError,
)
from nla_sdk.io.tables import vector_column
from tests import tiny
from tests.pair.test_ask import LAYERS, QUESTION, TEXT, base, half, oracle  # noqa: F401


def asked(*arguments: str) -> list[dict]:
    result = CliRunner().invoke(app, ["ask", QUESTION, *arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_text_and_files_of_vectors_are_asked_about_as_in_python(oracle, half, tmp_path):  # noqa: F811
    pair = ["--av", str(half)]
    [row] = asked(TEXT, *pair, "--positions", "4:9", "--layer", "2")
    expected = oracle.ask(TEXT, QUESTION, layer=2, positions=(4, 9))
    assert (row["api_explanation"], row["question"], row["activation_layer"]) == (expected, QUESTION, 2)
    vectors = tiny.random(3, tiny.D_MODEL, seed=1, scale=3.0)
    np.save(tmp_path / "rows.npy", vectors.numpy())
    [row] = asked(str(tmp_path / "rows.npy"), *pair, "--force")
    assert row["api_explanation"] == oracle.ask(vectors, QUESTION, force=True), "all rows are one set"
    rows = asked(str(tmp_path / "rows.npy"), *pair, "--force", "--each")
    assert [row["api_explanation"] for row in rows] == oracle.ask(vectors[:, None], QUESTION, force=True)


def test_a_table_says_the_layer_of_each_row(oracle, half, tmp_path):  # noqa: F811
    vectors = tiny.random(2, tiny.D_MODEL, seed=2, scale=3.0)
    table = {"activation_vector": vector_column(vectors.numpy()), "activation_layer": pa.array(LAYERS, pa.int32())}
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    given = [str(tmp_path / "rows.parquet"), "--av", str(half), "--force"]
    rows = asked(*given, "--each")
    assert [row["api_explanation"] for row in rows] == oracle.ask(vectors[:, None], QUESTION, layer=LAYERS, force=True)
    assert [row["activation_layer"] for row in rows] == LAYERS
    with pytest.raises(InputError, match="rows are of the layers 1, 2.*--each"):
        asked(*given)
    with pytest.raises(ForeignActivationError, match=r"activations of layer 1 \(row 0\); this pair reads layer 2"):
        asked(*given[:-1], "--layer", "2")
    with pytest.warns(ForeignActivationWarning, match="Taken all the same"):
        assert {row["activation_layer"] for row in asked(*given, "--each", "--layer", "2")} == {2}


def test_what_is_refused(half):  # noqa: F811
    with pytest.raises(UnseenValueError, match="layer 3 was never trained"):
        asked(TEXT, "--av", str(half), "--layer", "3")
    with pytest.raises(InputError, match=r"expected a:b"):
        asked(TEXT, "--av", str(half), "--positions", "4:x")
    with pytest.raises(NotAnOracleError, match="takes no question"):
        asked(TEXT)
