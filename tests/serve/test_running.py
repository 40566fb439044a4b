"""`nla serve` as a process: its line, its log, its exit code; what it finishes and what it does not."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading

import pytest

from tests.serve.wire import VECTOR, Wire, meanwhile, until

SECRET_TEXT = "Der Geheimtext"


@pytest.fixture
def started(full_folder, tmp_path):
    """Options → a server of its own process, and its client; stopped at the end if it still runs."""
    processes = []

    def start(*options: str) -> tuple[subprocess.Popen, Wire]:
        command = [sys.executable, "-m", "nla_sdk.cli", "serve", str(full_folder), "--port", "0", *options]
        log = (tmp_path / "log").open("w")
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        processes.append(process)
        line = process.stdout.readline()
        url = re.search(r"http://[\d.:]+", line)
        assert url, (line, (tmp_path / "log").read_text())
        return process, Wire(url[0])

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_of_two_that_begin_at_one_port_the_second_is_told_which():
    from nla_sdk.errors import InputError
    from nla_sdk.serve.running import bound, listen

    first = bound("127.0.0.1", 0)
    port = first.getsockname()[1]
    second = bound("127.0.0.1", port)  # nobody listens yet
    with first, second:
        listen(first)
        with pytest.raises(InputError, match=rf"127\.0\.0\.1:{port} cannot be listened at"):
            listen(second)
        with pytest.raises(InputError, match=f"{port} cannot be listened at"):
            bound("127.0.0.1", port)


def test_it_finishes_what_it_can_tells_the_rest_and_ends_with_0(started, slow, tmp_path, full_folder):
    process, wire = started("--grace", "600")
    assert wire.get("/").json()["status"] == "ok"
    assert wire.get("/v1/pair").json()["name"] == full_folder.name, "a folder is called by its last part"
    assert str(full_folder.parent) not in wire.get("/v1/pair").text + wire.get("/api/nla/sources").text
    asked_for_the_log(wire)
    short, long, late = [], [], []
    body = {"activations": slow["activations"], "max_new_tokens": 900}
    first = meanwhile(lambda: long.extend(Wire(wire.url).frames("/describe", body)))
    until(lambda: wire.gauge("nla_rows_running") > 0, 60)
    keeping = Wire(wire.url)
    assert keeping.get("/healthz").status_code == 200
    some = {"activations": [VECTOR], "max_new_tokens": 2}
    second = meanwhile(lambda: short.append(Wire(wire.url).post("/describe", some).status_code))
    until(lambda: wire.gauge("nla_requests_running") == 2 or short, 60)
    process.send_signal(signal.SIGTERM)
    until(lambda: late.append(keeping.get("/healthz").status_code) or late[-1] == 503, 10)
    refused = keeping.post("/describe", some)
    assert refused.status_code == 503 and "stopping" in refused.json()["detail"]
    second.join(60)
    assert short == [200] and process.poll() is None and not long
    process.send_signal(signal.SIGTERM)  # a second one: no longer than this
    first.join(30)
    assert process.wait(30) == 0
    assert "stopping" in long[-1]["error"], long[-1]
    log_holds_no_text((tmp_path / "log").read_text())


def asked_for_the_log(wire: Wire) -> None:
    assert wire.ask("/tokenize", {"text": SECRET_TEXT})["tokens"]
    assert wire.ask("/v1/explain", {"text": SECRET_TEXT, "max_new_tokens": 2})["rows"]
    odd = {"vectors": [[1e6 * one for one in VECTOR]] * 8, "max_new_tokens": 2}
    assert wire.ask("/v1/explain", odd)["warning"]
    assert wire.post("/v1/explain", {"text": SECRET_TEXT, "layer": SECRET_TEXT}).status_code == 422
    assert wire.get(f"/{SECRET_TEXT}").status_code == 404


def log_holds_no_text(log: str) -> None:
    assert "warning" not in log, log  # it is the client's
    lines = [line for line in log.splitlines() if re.match(r"\d{4}-\d\d-\d\d", line)]
    asked = [line.split(" ", 2)[2].split(" ")[:3] for line in lines]
    assert [one for one in asked if one[1] not in ("/metrics", "/healthz", "/describe")] == [
        ["GET", "/", "200"],
        ["GET", "/v1/pair", "200"],
        ["GET", "/v1/pair", "200"],
        ["GET", "/api/nla/sources", "200"],
        ["POST", "/tokenize", "200"],
        ["POST", "/v1/explain", "200"],
        ["POST", "/v1/explain", "200"],
        ["POST", "/v1/explain", "422"],
        ["GET", "other", "404"],
    ]
    assert "rows=1" in lines[5] and "tokens=2" in lines[5]
    assert ["POST", "/describe", "200"] in asked and ["POST", "/describe", "503"] in asked
    assert "stopped=stop" in log
    assert not [word for word in (*SECRET_TEXT.split(), "Traceback") if word in log]


def test_with_nothing_to_do_it_stops_at_once(full_pair):
    """The same in a thread, told by what the signals call."""
    from nla_sdk.serve.app import create_app
    from nla_sdk.serve.running import Server, address_of, bound
    from nla_sdk.serve.settings import Settings

    settings = Settings(grace=600)
    listening = bound("127.0.0.1", 0)
    server = Server(create_app(full_pair, settings), settings)
    thread = meanwhile(lambda: server.run([listening]))
    until(lambda: server.started, 10)
    assert Wire(address_of(listening)).get("/healthz").status_code == 200
    server.loop.call_soon_threadsafe(server.end)
    thread.join(10)
    assert not thread.is_alive()
    listening.close()


@pytest.mark.parametrize(
    ("options", "said"),
    (
        (["--host", "0.0.0.0"], "--secret-env"),
        (["--secret-env", "NLA_NO_SUCH_VARIABLE"], "not set"),
        (["demo", "--av", "demo"], "twice"),
        (["--frame", "a; b"], "frame-ancestors"),
        (["--port", "99999"], "--port"),
        (["--no-secret", "--host", "no.such.host.invalid"], "cannot be listened at"),
    ),
)
def test_what_makes_no_sense_is_one_line_and_exit_code_2(options, said, capsys):
    from nla_sdk.cli import boundary
    from nla_sdk.cli.app import app

    with pytest.raises(SystemExit) as ended:
        boundary.run(app, ["serve", *options], name="nla")
    assert ended.value.code == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and said in told[0]


def test_a_missing_extra_is_told_with_the_command_that_installs_it(monkeypatch):
    from nla_sdk.cli.options import PairOptions, ServeOptions
    from nla_sdk.cli.serving.serve import serve
    from nla_sdk.errors import InputError

    monkeypatch.setitem(sys.modules, "nla_sdk.serve.app", None)
    with pytest.raises(InputError, match=r"nla-sdk\[serve\]"):
        serve("demo", PairOptions(), ServeOptions())


def test_serving_ends_with_its_block_and_leaves_no_thread(full_pair):
    from nla_sdk.serve.running import serving

    before = set(threading.enumerate())
    with serving(full_pair) as url:
        assert Wire(url).get("/healthz").json() == {"status": "ok"}
    with pytest.raises(Exception, match="refused"):
        Wire(url).get("/healthz")
    until(lambda: not [one for one in set(threading.enumerate()) - before if "nla-serve" in one.name], 10)
