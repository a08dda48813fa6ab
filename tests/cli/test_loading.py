"""Heavy modules are imported without the garbage collector, and everything after them with it."""

from __future__ import annotations

import gc

import pytest

from aasvc_cli.cli.loading import loading


def test_the_collector_rests_during_imports_only():
    with loading():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_an_import_that_fails_switches_it_on_again():
    with pytest.raises(ImportError), loading():
        raise ImportError("no such package")
    assert gc.isenabled()


def test_later_collections_leave_out_what_was_imported():
    with loading():
        kept = [[number] for number in range(1000)]
    assert gc.get_freeze_count() >= len(kept)
    assert not any(thing is kept for thing in gc.get_objects())
