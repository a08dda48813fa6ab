"""The SLURM scripts of CONTRIBUTING, run with stubs of ``srun`` and ``scontrol``: machines are processes here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aasvc_cli.storage.checkpoint import load_checkpoint
from aasvc_cli.storage.home import Home
from tests import processes

ROOT = Path(__file__).parent.parent
SECTION = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Run on a SLURM cluster\n")[1]
PREPARE, TRAIN = re.findall(r"^```bash\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
STUBS = {
    # starts the command once on each machine, as srun does with one task per node
    "srun": """#!/bin/bash
for node in $(seq "${SLURM_NNODES:-1}"); do "$@" & running="$running $!"; done
for process in $running; do wait "$process" || exit 1; done
""",
    "scontrol": '#!/bin/bash\n[ "$*" = "show hostnames machines" ] && printf \'127.0.0.1\\n127.0.0.1\\n\'\n',
    "aasvc": f'#!/bin/bash\nexec {sys.executable} -m aasvc_cli "$@"\n',
    "torchrun": f'#!/bin/bash\nexec {sys.executable} -m torch.distributed.run --local-addr 127.0.0.1 "$@"\n',
}


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a script with arguments, as ``sbatch`` would."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in STUBS.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)

    def call(script: str, *arguments: object, **variables: object) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "job.sh"
        path.write_text(script)
        environment = {
            **os.environ,
            **{name: str(value) for name, value in variables.items()},
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        command = ["bash", str(path), *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)

    return call


@pytest.mark.process
def test_an_array_job_prepares_in_parts(
    run: Callable[..., Any], aasvc: Callable[..., Any], small_corpus: Path, tiny_conf: Path, home: Home
):
    arguments = [small_corpus, "--conf", tiny_conf]
    for part in (2, 1):
        variables = {"SLURM_ARRAY_TASK_ID": part, "SLURM_ARRAY_TASK_COUNT": 2, "SLURM_CPUS_PER_TASK": 1}
        done = run(PREPARE, *arguments, **variables)
        assert done.returncode == 0 and f"part {part}/2: 5 pairs" in done.stdout, done.stderr
    outcome = aasvc("prepare", *arguments, "--jobs", 1)
    assert outcome.code == 0 and "--shard" not in outcome.out
    assert (home.prepared / "male_female" / "manifest.json").is_file()


@pytest.mark.process
@processes.needs_forks
def test_two_machines_train_as_two_processes_of_one_do(run: Callable[..., Any], trained: Home):
    variables = {"SLURM_NNODES": 2, "SLURM_JOB_NODELIST": "machines", "SLURM_JOB_ID": 7, "PORT": processes.free_port()}
    done = run(TRAIN, "--tag", "machines", "--max-steps", 3, **variables, GLOO_SOCKET_IFNAME="lo")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 3, best at") == 1, "one process talks"
    one = ["train", "--tag", "one", "--max-steps", "3"]
    assert processes.finish(processes.start_group(2, processes.command_line, one)) == [0, 0]
    found, expected = (
        load_checkpoint(trained.exp / f"male_female_{tag}" / "last.safetensors") for tag in ("machines", "one")
    )
    assert found[1]["processes"] == expected[1]["processes"] == 2
    assert found[0].keys() == expected[0].keys()
    assert all(torch.equal(expected[0][name], tensor) for name, tensor in found[0].items())
