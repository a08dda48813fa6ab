"""The check of a CUDA card works as far as a CPU can show."""

from __future__ import annotations

import json

import pytest
import torch

from tests.device import check


@pytest.mark.slow
def test_everything_is_checked_in_small_on_the_cpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        check.main()
    lines = capsys.readouterr().out.splitlines()
    result = json.loads(lines[-1])
    assert ended.value.code == 0 and result["failed"] == []
    assert result["golden parity"]["fp32"] <= 1e-5 < result["golden parity"]["bf16"]
    assert {(row["precision"], row["checkpointing"], row["batch"]) for row in result["steps"]} == {
        (precision, checkpointing, batch)
        for precision in ("fp32", "bf16")
        for checkpointing in (False, True)
        for batch in (1, 2)
    }
    assert all(factor > 0 for factor in result["real-time factor"].values())
    assert [row["operation"] for row in result["published operations"]] == ["distance", "search", "forward sum"]
    assert result["lack of memory"]["pieces of"] == 2
    assert result["batch size auto"]["batch"] == 4
    assert result["training"] == {"first": 0.0, "last": 0.0, "dev": 0.0}  # twice the same device


def test_a_wrong_result_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(check, "golden_parity", lambda *_: {"fp32": 1e-3})
    alignment = {"same path": False, "forward sum": 0.0, "its gradient": 0.0}
    monkeypatch.setattr(check, "alignment_parity", lambda *_: alignment)
    memory = {"pieces of": None, "gradient norm": 0.0}
    monkeypatch.setattr(check, "recovery_from_lack_of_memory", lambda *_: memory)
    monkeypatch.setattr(check, "published_operations", lambda *_: [])
    monkeypatch.setattr(check, "automatic_batch", lambda *_: {"GB": 1.0, "takes GB": 1.0})
    monkeypatch.setattr(check, "step_times", lambda *_: [])
    monkeypatch.setattr(check, "training_parity", lambda *_: {"first": 0.0, "last": 0.0, "dev": 0.5})
    monkeypatch.setattr(check, "conversion", lambda *_: {})
    with pytest.raises(SystemExit) as ended:
        check.main()
    assert ended.value.code == 1
    failed = json.loads(capsys.readouterr().out.splitlines()[-1])["failed"]
    assert failed == ["golden parity", "monotonic search", "lack of memory", "training"]


def test_hours_are_those_of_the_fastest_batch():
    rows = [
        {"precision": "bf16", "batch": 1, "seconds": 0.09},
        {"precision": "bf16", "batch": 4, "seconds": 0.18},
        {"precision": "bf16", "batch": 8, "seconds": None},
    ]
    assert check.hours_of_the_published_training(rows) == {"bf16": pytest.approx(0.18 / 4 * 16 * 50_000 / 3600)}
