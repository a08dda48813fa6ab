"""The errors that users see."""

from __future__ import annotations

import inspect

from aasvc_cli import errors
from aasvc_cli.errors import AasvcError, AudioError, ConfigError, DataError, Interrupted

ERRORS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]


def test_every_error_stands_in_the_drawn_tree():
    assert len(ERRORS) > 5
    for kind in ERRORS:
        assert issubclass(kind, AasvcError)
        assert kind.__name__ in (errors.__doc__ or "")


def test_every_error_exits_with_a_failure():
    assert all(kind.exit_code > 0 for kind in ERRORS)
    assert Interrupted.exit_code == 130


def test_one_bad_recording_counts_as_bad_data():
    assert issubclass(AudioError, DataError)


def test_a_configuration_error_names_its_origin_and_every_fault():
    error = ConfigError("my.yaml", ["train.lr: too low", "model.width: odd"])
    assert str(error) == "my.yaml: train.lr: too low; model.width: odd"
    assert error.faults == ("train.lr: too low", "model.width: odd")


def test_a_fault_of_a_configuration_is_cut_to_a_few_lines_whoever_raises_it():
    assert len(str(ConfigError("my.yaml", ["9" * 5000, "short"]))) < 500
