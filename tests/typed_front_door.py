"""What a type checker knows of `from nla_sdk import …`. Checked by `basedpyright`, never run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from typing_extensions import assert_type

from nla_sdk import Activations, Client, Comparison, Contract, Explanation, NLAPair, Results, RoundTrip, Score, Steered
from nla_sdk.halves.half import Half
from nla_sdk.publishing.pushed import Pushed
from nla_sdk.sampling import Sampling


def what_a_pair_gives(pair: NLAPair, matrix: torch.Tensor) -> None:
    assert_type(NLAPair.from_pretrained("demo"), NLAPair)
    assert_type(pair.extract("The cat sat on the mat.", "all"), Activations)
    assert_type(pair.extract([{"role": "user", "content": "Who?"}]).vectors, torch.Tensor)
    assert_type(pair.round_trip("The cat sat on the mat."), RoundTrip)
    assert_type(pair.round_trip([{"role": "user", "content": "Who?"}]), RoundTrip)
    assert_type(pair.round_trip(["a text", "another"], best_of=2), Results[RoundTrip])
    assert_type(pair.round_trip(["a text", "another"])[0].explanation, Explanation)
    # A tensor's type does not tell a vector from a matrix.
    assert_type(pair.round_trip(matrix, seed=1), RoundTrip | Results[RoundTrip])
    assert_type(pair.explain(matrix), Explanation | Results[Explanation])
    assert_type(pair.explain([0.0, 1.0]), Explanation | Results[Explanation])
    assert_type(pair.explain(np.ones(3), n=2), Results[Explanation] | Results[Results[Explanation]])
    assert_type(pair.explain(matrix, kind="direction", signs="±"), Results[Explanation] | Results[Results[Explanation]])
    assert_type(pair.compare(matrix, "a text"), Comparison | Results[Comparison])
    assert_type(pair.reconstruct(pair.explain(matrix)), torch.Tensor)
    assert_type(pair.score("a cat", matrix), Score | Results[Score])
    assert_type(pair.save_pretrained("my-pair", overwrite=True), Path)
    assert_type(pair.save_pretrained("my-pair", push="ada/cat", private=True), Path)
    assert_type(pair.push_to_hub("ada/cat", evaluation="results/mine"), list[Pushed])
    pair.save_pretrained("my-pair", push="ada/cat", privat=True)  # pyright: ignore[reportCallIssue]
    assert_type(pair.steer("a text", matrix, [0.5, 1.0]), Steered | Results[Steered])
    pair.round_trip("a text", temprature=0.7)  # pyright: ignore[reportCallIssue]
    pair.explain("a text")  # pyright: ignore[reportArgumentType]


def what_a_client_gives(served: Client, matrix: torch.Tensor) -> None:
    assert_type(served.extract("The cat sat on the mat.", "all"), Activations)
    assert_type(served.round_trip("The cat sat on the mat.", cancel=None), RoundTrip)
    assert_type(served.round_trip(["a text", "another"])[0].explanation, Explanation)
    assert_type(served.explain(matrix), Explanation | Results[Explanation])
    assert_type(
        served.explain(matrix, kind="direction", signs="±"), Results[Explanation] | Results[Results[Explanation]]
    )
    assert_type(served.compare(matrix, "a text"), Comparison | Results[Comparison])
    assert_type(served.score("a cat", matrix), Score | Results[Score])
    assert_type(served.pair.warning, str | None)
    served.round_trip("a text", temprature=0.7)  # pyright: ignore[reportCallIssue]


def what_it_is(pair: NLAPair, trip: RoundTrip, trips: Results[RoundTrip]) -> None:
    assert_type(pair.av, Half | None)
    assert_type(pair.contract, Contract)
    assert_type(pair.layer, int)
    assert_type(pair.base_path, Path)
    assert_type(trip.explanation.score, Score | None)
    assert_type(trip.fve, float | None)
    assert_type(trips[1:], Results[RoundTrip])
    assert_type(trips[0].status, str)
    assert_type(Sampling(temperature=0.7).n, int)
    print(trip.cosin)  # pyright: ignore[reportAttributeAccessIssue]
