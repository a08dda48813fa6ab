"""What is said about machine code on disk agrees with what numba does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aasvc_cli.compiled import has_machine_code

pytestmark = pytest.mark.process

MODULE = """
from aasvc_cli.compiled import compiled

@compiled
def double(value: float) -> float:
    return 2.0 * value
"""


def test_machine_code_is_known_from_the_first_call_until_the_source_changes(tmp_path: Path, monkeypatch):
    source = tmp_path / "compiled_once.py"
    source.write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # only where Linux has it; elsewhere the user's own
    assert not has_machine_code("compiled_once")
    call = "from compiled_once import double; print(double(2.0), sum(double.stats.cache_misses.values()))"
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(tmp_path), str(Path(__file__).parent.parent)]))
    for expected in ("4.0 1", "4.0 0"):  # compiled, then found
        done = subprocess.run([sys.executable, "-c", call], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected
        assert has_machine_code("compiled_once")
    assert not list(tmp_path.rglob("__pycache__/*.nb?"))  # a package that is uninstalled leaves nothing behind
    later = source.stat().st_mtime + 10
    os.utime(source, (later, later))
    assert not has_machine_code("compiled_once")


def test_a_module_that_does_not_exist_has_none_and_asking_loads_no_compiler():
    call = (
        "import sys; from aasvc_cli.compiled import has_machine_code as has; "
        "print(has('no_such_module'), has('aasvc_cli.audio.dtw') in (True, False), "
        "{'numba', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "set()"]
