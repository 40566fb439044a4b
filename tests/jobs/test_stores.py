"""Tables in stores and in many files: the rows and the results of one file here. S3 is moto's server, on loopback."""

from __future__ import annotations

import logging
import re
import socket
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nla_sdk.contract import Contract
from nla_sdk.errors import InputError
from nla_sdk.io.rows import stores
from nla_sdk.io.rows.sources import open_source
from nla_sdk.io.rows.stores import Stored
from nla_sdk.io.tables import vector_column
from nla_sdk.jobs.local import Target, run
from tests.commands import run_nla
from tests.jobs.test_local import ABOUT, Doubling

pytest_plugins = ["tests.hub.fixtures"]
SECRET = "geheim-123"


@pytest.fixture(scope="module")
def endpoint():
    """Of an S3 store that holds a bucket."""
    pytest.importorskip("moto.server", reason="needs moto's server (the extra [dev])")
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    server.stop()


@pytest.fixture
def s3(endpoint, monkeypatch, tmp_path):
    """An S3 client of Arrow's, and what `nla` finds in its environment."""
    from pyarrow import fs

    environment = {
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NLA_CACHE": str(tmp_path / "cache"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    client, _ = fs.FileSystem.from_uri("s3://bucket?allow_bucket_creation=true")
    client.create_dir("bucket")
    yield client
    client.delete_dir_contents("bucket")


def vectors(rows: int, seed: int = 0) -> pa.Table:
    found = np.random.default_rng(seed).normal(size=(rows, 4))
    return pa.table({"activation_vector": vector_column(found), "id": [f"{seed}-{row}" for row in range(rows)]})


def double(given: str, out: str, work=None, overwrite: bool = False, **made_from) -> Doubling:
    source, work = open_source(given, ("activation_vector",)), work or Doubling()
    target = Target.at(out, "parquet", None, (), overwrite)
    run(source, source.check(), work, target, chunk_rows=3, made_from=made_from, about=ABOUT)
    return work


def gone(stored: Stored, file: Path) -> None:
    raise InputError("it is gone")


def content(client, path: str) -> bytes:
    with client.open_input_file(path) as file:
        return file.readall()


def test_a_table_goes_from_store_to_store_as_it_goes_from_file_to_file(s3, tmp_path):
    table = vectors(10)
    pq.write_table(table, tmp_path / "in.parquet")
    pq.write_table(table, "bucket/some folder/in.parquet", filesystem=s3)
    double(str(tmp_path / "in.parquet"), str(tmp_path / "out.parquet"))
    double("s3://bucket/some folder/in.parquet", "s3://bucket/made/out.parquet")
    for name in ("out.parquet", "out.parquet.nla_meta.yaml"):
        assert content(s3, f"bucket/made/{name}") == (tmp_path / name).read_bytes()
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    with pytest.raises(InputError, match="^s3://bucket/made/out.parquet exists already. Pass --overwrite"):
        double("s3://bucket/some folder/in.parquet", "s3://bucket/made/out.parquet")
    assert open_source("s3://bucket/made/out.parquet", ("activation_vector",)).layer == 2


def test_what_was_done_is_kept_until_the_store_has_it(s3, tmp_path, monkeypatch):
    pq.write_table(vectors(10), tmp_path / "in.parquet")
    job = (str(tmp_path / "in.parquet"), "s3://bucket/out.parquet")
    with pytest.raises(KeyboardInterrupt, match="6 of 10 rows are kept in .*cache"):
        double(*job, Doubling(6))
    with monkeypatch.context() as patch, pytest.raises(InputError, match="it is gone"):
        patch.setattr(Stored, "put", gone)
        double(*job)
    assert double(*job).firsts == []
    assert pq.read_table("bucket/out.parquet", filesystem=s3)["row"].to_pylist() == list(range(10))


@pytest.mark.parametrize("where", ["here", "there"])
def test_many_files_are_the_rows_of_one(s3, tmp_path, where):
    tables = [vectors(rows, seed) for seed, rows in enumerate((4, 1, 7))]
    pq.write_table(pa.concat_tables(tables), tmp_path / "whole.parquet")
    (tmp_path / "acts").mkdir()
    for number, table in enumerate(tables):
        pq.write_table(table, tmp_path / "acts" / f"{number}.parquet")
        pq.write_table(table, f"bucket/acts/{number}.parquet", filesystem=s3)
    pattern = str(tmp_path / "acts" / "*.parquet") if where == "here" else "s3://bucket/acts/*.parquet"
    out = str(tmp_path / "out.parquet")
    with pytest.raises(KeyboardInterrupt):
        double(pattern, out, Doubling(6))
    assert double(pattern, out).firsts == [6, 9]
    double(str(tmp_path / "whole.parquet"), str(tmp_path / "expected.parquet"))
    assert Path(out).read_bytes() == (tmp_path / "expected.parquet").read_bytes()
    source = open_source(pattern, ("activation_vector",))
    assert source.check() == 12 and source.identity()["files"] == 3
    for start in (0, 4, 5, 11, 12):
        rows = [row for table in source.batches(2, start) for row in table["id"].to_pylist()]
        assert rows == [row for table in tables for row in table["id"].to_pylist()][start:]


def test_what_is_wrong_in_one_of_many_is_named_by_its_file_and_row(tmp_path):
    pattern = str(tmp_path / "*.parquet")
    wrong = {
        "row 1: activation_vector is empty": pa.table({"activation_vector": [[1.0, 2, 3, 4], None]}),
        "another width": pa.table({"activation_vector": [[1.0, 2.0]]}),
        "rows 0 to 0 have no activation_vector": pa.table({"other": [1]}),
    }
    for says, table in wrong.items():
        pq.write_table(vectors(3), tmp_path / "a.parquet")
        pq.write_table(table, tmp_path / "b.parquet")
        with pytest.raises(InputError, match=rf"b\.parquet.*{says}"):
            open_source(pattern, ("activation_vector",)).check()
    pq.write_table(vectors(2, seed=5).set_column(1, "id", [[1, 2]]), tmp_path / "b.parquet")
    with pytest.raises(InputError, match="a column changes its type from file to file"):
        open_source(pattern, ("activation_vector",)).check()


def test_files_of_several_layers_are_not_taken_for_one(tmp_path):
    for layer in (2, 3):
        pq.write_table(vectors(2), tmp_path / f"{layer}.parquet")
        Contract.from_dict(ABOUT.to_dict() | {"layer": layer}).save(tmp_path / f"{layer}.parquet")
    source = open_source(str(tmp_path / "*.parquet"), ("activation_vector",))
    assert [facts["layer"] for _, facts in source.beside] == [2, 3]
    with pytest.raises(InputError, match="its files are of layers 2, 3"):
        source.layer  # noqa: B018


def test_a_changed_file_is_other_input(s3, tmp_path):
    pq.write_table(vectors(4), "bucket/a.parquet", filesystem=s3)
    before = open_source("s3://bucket/a.parquet", ("activation_vector",)).identity()
    assert before == open_source("s3://bucket/a.parquet", ("activation_vector",)).identity()
    pq.write_table(vectors(5), "bucket/a.parquet", filesystem=s3)
    assert open_source("s3://bucket/a.parquet", ("activation_vector",)).identity() != before


def test_rows_of_a_dataset_on_the_hub_are_read(hub, tmp_path):
    files = {}
    for number in range(2):
        pq.write_table(vectors(3, number), tmp_path / "one.parquet")
        files[f"data/{number}.parquet"] = (tmp_path / "one.parquet").read_bytes()
    hub.add("owner/acts", files, kind="dataset")
    source = open_source("hf://datasets/owner/acts/data/*.parquet", ("activation_vector",))
    assert source.check() == 6
    ids = [one for table in source.batches(4) for one in table["id"].to_pylist()]
    assert ids == [f"{number}-{row}" for number in range(2) for row in range(3)]
    before = source.identity()
    hub.add("owner/acts", files | {"data/1.parquet": files["data/0.parquet"]}, kind="dataset")
    assert open_source("hf://datasets/owner/acts/data/*.parquet", ("activation_vector",)).identity() != before


def test_a_dataset_on_the_hub_takes_a_table_and_what_stands_beside_it(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("NLA_CACHE", str(tmp_path / "cache"))
    hub.add("owner/acts", {"README.md": "Rows."}, kind="dataset")
    pq.write_table(vectors(10), tmp_path / "in.parquet")
    out = "hf://datasets/owner/acts/made/out.parquet"
    with pytest.raises(InputError, match="made/out.parquet.nla_meta.yaml cannot be written: Client error '401"):
        double(str(tmp_path / "in.parquet"), out)
    hub.tokens[SECRET] = set()
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert double(str(tmp_path / "in.parquet"), out).firsts == []
    double(str(tmp_path / "in.parquet"), str(tmp_path / "out.parquet"))
    there = hub.files("owner/acts", kind="dataset")
    for name in ("out.parquet", "out.parquet.nla_meta.yaml"):
        assert there[f"made/{name}"] == (tmp_path / name).read_bytes()


REFUSED = {
    "s3://bucket/none.parquet": "s3://bucket/none.parquet does not exist",
    "s3://bucket/none/*.parquet": "matches no file there",
    "s3://nobody/a.parquet": "s3://nobody/a.parquet does not exist",
    "s3://bucket/folder": "is a folder; name its files by a pattern: s3://bucket/folder/",
    "s3://bucket": "is no address of a file",
    f"s3://somebody:{SECRET}@bucket/a.parquet": "keys have no place in addresses",
    "gcs://bucket/a.parquet": "is on another machine; files are read here and from s3://, gs:// and hf://",
}


@pytest.mark.parametrize("given", REFUSED)
def test_what_is_not_there_is_said_in_a_line(s3, capsys, given):
    pq.write_table(vectors(1), "bucket/folder/a.parquet", filesystem=s3)
    code, out, err = run_nla(capsys, ["explain", given])
    assert (code, out) == (2, "") and REFUSED[given] in err and len(err.splitlines()) == 1
    assert SECRET not in err


def test_a_store_that_does_not_answer_is_said_in_a_line(s3, monkeypatch, capsys):
    from pyarrow import fs

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        there = f"127.0.0.1:{closed.getsockname()[1]}"
        once = fs.AwsStandardS3RetryStrategy(max_attempts=1)  # its own three take six seconds
        client = fs.S3FileSystem(scheme="http", endpoint_override=there, retry_strategy=once)
        monkeypatch.setattr(stores, "_filesystem", lambda *_: client)
        code, _, err = run_nla(capsys, ["explain", "s3://bucket/a.parquet"])
    assert code == 2 and re.search("s3://bucket/a.parquet cannot be read: .*connect", err), err
    assert len(err.splitlines()) == 1 and SECRET not in err


def test_texts_of_a_store_are_read_and_activations_written_there(s3, capsys, lora_folders, tmp_path):
    lines = '{"text": "The cat sat."}\n{"text": "On the mat."}\n'
    (tmp_path / "in.jsonl").write_text(lines)
    with s3.open_output_stream("bucket/in.jsonl") as file:
        file.write(lines.encode())
    pair = ("--av", lora_folders["shared"], "--device", "cpu")
    assert run_nla(capsys, ["extract", tmp_path / "in.jsonl", *pair, "-o", tmp_path / "out.npy"])[0] == 0
    code, _, err = run_nla(capsys, ["extract", "s3://bucket/in.jsonl", *pair, "-o", "s3://bucket/out.npy"])
    assert code == 0 and "wrote s3://bucket/out.npy" in err
    assert content(s3, "bucket/out.npy") == (tmp_path / "out.npy").read_bytes()
    code, _, err = run_nla(capsys, ["ask", "What?", "s3://bucket/in.jsonl", *pair, "-o", "s3://bucket/answers.jsonl"])
    assert code == 2 and "answers are written to files here" in err
