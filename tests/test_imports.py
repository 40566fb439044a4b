"""Modules are imported without a garbage collector, which is then as it was, and some not before they are used."""

from __future__ import annotations

import gc
import inspect
import subprocess
import sys
import textwrap
import threading

import pytest

from nla_sdk.imports import put_off, uncollected


@pytest.fixture(autouse=True)
def as_it_was():
    was = gc.isenabled()
    gc.enable()
    yield
    (gc.enable if was else gc.disable)()


def test_the_collector_waits_and_goes_on_afterwards():
    with uncollected():
        assert not gc.isenabled()
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_goes_on_after_an_error():
    with pytest.raises(ValueError, match="no"), uncollected():
        raise ValueError("no")
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    with uncollected():
        pass
    assert not gc.isenabled()


def test_threads_that_overlap_leave_it_on():
    inside, leave = threading.Event(), threading.Event()

    def load():
        with uncollected():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=load)
    thread.start()
    inside.wait(10)
    with uncollected():
        pass
    assert not gc.isenabled()  # the other is still at it
    leave.set()
    thread.join()
    assert gc.isenabled()


def alone(code: str) -> None:
    """Run code in a process of its own, where there is little for a collector to look through."""
    head = "import gc, weakref\nfrom nla_sdk.imports import uncollected\n"
    subprocess.run([sys.executable, "-c", head + textwrap.dedent(code)], check=True, timeout=60)


def test_what_was_made_meanwhile_is_old_and_can_still_be_freed():
    alone(
        """
        class Knot:
            '''An object that only the collector can free.'''

            def __init__(self):
                self.me = self

        with uncollected():
            kept, knot = [[] for _ in range(1000)], Knot()
        young = {id(one) for generation in (0, 1) for one in gc.get_objects(generation)}
        assert not young & set(map(id, kept))

        gone = weakref.ref(knot)
        del knot
        gc.collect()
        assert gone() is None
        """
    )


def test_what_somebody_has_frozen_stays_frozen():
    alone(
        """
        # Not by gc.get_freeze_count(): what was frozen and is freed meanwhile makes it less.
        own = [[]]
        gc.freeze()
        with uncollected():
            pass
        assert not any(one is own for one in gc.get_objects())  # which does not list what is frozen
        gc.unfreeze()
        assert any(one is own for one in gc.get_objects())
        """
    )


# --- put off ------------------------------------------------------------------------------------------------------
@pytest.fixture
def module(tmp_path, monkeypatch) -> str:
    """A module that says in `sys.modules` when it is imported, inside a package."""
    package = tmp_path / "slow_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "slow.py").write_text("number = 7\n\ndef double(value, *, plus=0):\n    return 2 * value + plus\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "slow_package.slow"
    for name in ("slow_package", "slow_package.slow"):
        sys.modules.pop(name, None)


def test_a_module_that_is_put_off_comes_when_something_of_it_is_used(module):
    with put_off(module):
        import slow_package.slow as early

        inspect.getmodule(len)  # asks all there are for their files
    assert module not in sys.modules
    assert early.number == 7
    assert sys.modules[module].double(early.number) == early.double(7) == 14


def test_a_function_that_is_put_off_is_imported_when_it_is_called(module):
    with put_off(module, "double"):
        from slow_package.slow import double
    assert module not in sys.modules
    assert double(3, plus=1) == 7
    assert module in sys.modules


def test_what_is_used_at_once_is_there_at_once(module):
    with put_off(module, "double"):
        from slow_package.slow import double, number

        assert (number, double(number)) == (7, 14)
        assert sys.modules[module].__file__


def test_a_module_that_is_imported_already_or_not_installed_is_left_alone(module):
    import slow_package.slow as real

    with put_off(module, "double"):
        assert sys.modules[module] is real
    with put_off("no_such_package.part"), pytest.raises(ImportError):
        import no_such_package.part  # noqa: F401
