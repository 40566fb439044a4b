"""Files of vectors, uploaded: what they hold, what is asked, and what is never done."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tests.serve.wire import VECTOR, Wire

BYTES = {"Content-Type": "application/octet-stream"}


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


ROWS = np.array([VECTOR, VECTOR[::-1]], np.float32)


def send(wire: Wire, body: bytes, **query):
    return wire.http.post("/v1/vectors", content=body, params={"name": "a.npy", **query}, headers=BYTES)


def test_what_the_file_does_not_say_is_asked(wire: Wire):
    response = send(wire, npy(ROWS))
    assert response.status_code == 400
    told = response.json()
    assert told["error"] == "UnstatedVectorError"
    assert {one["fact"] for one in told["questions"]} == {"kind", "layer"}
    assert all(set(one) == {"fact", "choices", "option", "why"} for one in told["questions"])


def test_vectors_come_as_they_are_with_their_labels(wire: Wire):
    found = send(wire, npy(ROWS), kind="direction", layer=1).json()
    assert (found["kind"], found["layer"], found["count"]) == ("direction", 1, 2)
    for at, row in enumerate(found["rows"]):
        assert row["vector"] == pytest.approx(ROWS[at].tolist())
        assert (row["index"], row["norm"]) == (at, pytest.approx(float(np.linalg.norm(ROWS[at]))))
    one = send(wire, npy(ROWS), kind="direction", layer=1, rows="1").json()
    assert [row["label"] for row in one["rows"]] == ["#1"]
    both = send(wire, npy(ROWS), kind="direction", layer=1, sign="±").json()
    assert both["count"] == 4


def test_nothing_of_the_request_says_where_the_file_lies_and_it_is_gone_after(wire: Wire):
    before = set(Path(tempfile.gettempdir()).glob("nla-serve-*"))
    for name in ("../../etc/a b.npy", "..\\a.npy", "a#1@2.npy", "ä.npy"):
        response = send(wire, npy(ROWS), name=name, kind="direction", layer=1)
        assert response.status_code == 200, response.text
        source = response.json()["source"]
        assert "/" not in source.split(" ")[0] and "nla-serve-" not in source
    assert set(Path(tempfile.gettempdir()).glob("nla-serve-*")) == before


@pytest.mark.parametrize("name", ("a.pkl", "a.exe", "a", "a.npy/", "cfg.json", "a.npy.gz"))
def test_a_suffix_that_is_not_read_is_refused(wire: Wire, name):
    response = send(wire, npy(ROWS), name=name, kind="direction", layer=1)
    assert response.status_code == 400 or name == "a.npy/"


@pytest.mark.parametrize("rows", ("/etc/passwd", "..\\x", "1@5", "9", "nobody"))
def test_rows_that_are_none_are_refused(wire: Wire, rows):
    response = send(wire, npy(ROWS), kind="direction", layer=1, rows=rows)
    assert response.status_code == 400, response.text


@pytest.mark.parametrize("name", ("a.npy", "a.npz", "a.safetensors", "a.pt", "a.gguf", "a.parquet", "a.jsonl", "a.bin"))
@pytest.mark.parametrize("body", (b"", b"PK\x03\x04" + bytes(60), bytes(range(256)) * 4), ids=("empty", "zip", "noise"))
def test_a_file_that_is_none_is_the_callers_fault(wire: Wire, name, body):
    response = send(wire, body, name=name, kind="direction", layer=1)
    assert response.status_code == 400, response.text
    assert "nla-serve-" not in response.text


def test_more_rows_than_a_request_may_have_are_to_be_named(wire: Wire):
    many = np.ones((600, 64), np.float32)
    response = send(wire, npy(many), kind="direction", layer=1)
    assert response.status_code == 400 and "600" in response.json()["detail"]
    assert send(wire, npy(many), kind="direction", layer=1, rows="0:3").json()["count"] == 3


def test_read_only_servers_take_no_files_and_write_nothing_of_the_source(serve, full_pair):
    wire = serve(full_pair, read_only=True)
    assert send(wire, npy(ROWS), kind="direction", layer=1).status_code == 403
    for path, body in (
        ("/v1/steer", {"text": "a", "towards": "b"}),
        ("/v1/complete", {"text": "a"}),
        ("/completion", {"text": "a"}),
    ):
        assert wire.post(path, body).status_code == 403
    assert wire.get("/v1/pair").json()["limits"]["switched_off"] == ["vectors", "steer", "complete"]
    assert wire.get("/").json()["completion_available"] is False
    assert wire.ask("/v1/explain", {"vectors": [VECTOR], "max_new_tokens": 1})["rows"]


def test_a_body_that_is_no_file_is_refused(wire: Wire):
    assert wire.post("/v1/vectors?name=a.npy", {}).status_code == 415


def test_a_small_file_of_very_many_numbers_is_refused_unread(wire: Wire):
    import zipfile

    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    kept, packed, table = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save({"v": torch.zeros(300_000, 64)}, kept)
    with zipfile.ZipFile(kept) as archive, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as again:
        for name in archive.namelist():
            again.writestr(name, archive.read(name))
    rows = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(300_000 * 64, np.float32)), 64)
    pq.write_table(pa.table({"v": rows}), table)
    for name, file in (("a.pt", packed), ("a.parquet", table)):
        response = send(wire, file.getvalue(), name=name, kind="direction", layer=1, rows="0")
        assert response.status_code == 400 and response.json()["error"] == "DamagedFileError"
        assert "unpacks to 76,8" in response.json()["detail"]
    assert send(wire, b"PAR1", name="a.parquet", kind="direction", layer=1).status_code == 400


def test_who_goes_away_in_the_midst_of_a_file_is_no_bug(wire: Wire, caplog):
    import socket

    from tests.serve.wire import until

    gone = 'nla_requests_total{route="/v1/vectors",status="499"} 1.0'
    head = "POST /v1/vectors?name=a.npy HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
    with socket.create_connection(("127.0.0.1", int(wire.url.rpartition(":")[2]))) as raw:
        raw.sendall(f"{head}Content-Length: 1000\r\n\r\nabc".encode())
    until(lambda: gone in wire.get("/metrics").text, 5)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert not set(Path(tempfile.gettempdir()).glob("nla-serve-*"))
