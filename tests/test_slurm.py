"""scripts/slurm/distill.sbatch on a real Slurm, started here on one node: an array of four jobs, one of them preempted."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time

import pytest
from run_helpers import ROOT, environment, free_port, run
from test_server_runs import arguments, asked, logged

pytestmark = [
    pytest.mark.skipif(
        os.name != "posix" or os.geteuid() != 0, reason="only root can start a Slurm of its own"
    ),
    pytest.mark.skipif(
        not (shutil.which("slurmctld") and shutil.which("munged")),
        reason="no Slurm: apt-get install slurm-wlm munge",
    ),
]
SCRIPT = ROOT / "scripts" / "slurm" / "distill.sbatch"
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5,socket={folder}/munge.socket
SlurmctldPort={controller}
SlurmdPort={daemon}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
KillWait=5
ReturnToService=2
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=low Nodes={host} Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=30 State=UP
PartitionName=high Nodes={host} PriorityTier=10 PreemptMode=OFF State=UP
"""


def until(true, seconds, what):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A function that runs a Slurm command; the daemons end with the module."""
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "state").mkdir()
    text = CONFIG.format(
        host=socket.gethostname().partition(".")[0],
        folder=folder,
        controller=free_port(),
        daemon=free_port(),
    )
    (folder / "slurm.conf").write_text(text)
    env = environment(SLURM_CONF=str(folder / "slurm.conf"))

    def command(*words):
        done = subprocess.run(
            words, env=env, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout.strip()

    # A munged of our own, on a socket of our own: the machine's may be dead and have left its socket behind.
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    files = [f"--{name}-file={folder}/munged.{name}" for name in ("pid", "log", "seed")]
    # --force: the test's folder is root's alone, and so are all who ask
    command("munged", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket", *files)
    try:
        command("slurmctld")
        command("slurmd")
        until(lambda: "idle" in command("sinfo", "-h", "-o", "%T"), 30, "an idle node")
        yield command
    finally:
        subprocess.run(["scancel", "--user=root"], env=env, check=False)
        time.sleep(1)
        for pid in folder.glob("*.pid"):
            subprocess.run(["kill", pid.read_text().strip()], check=False)


def field(text, name):
    found = re.search(rf"\b{name}=(\S+)", text)
    assert found, f"no {name} in {text}"
    return found[1]


def test_an_array_of_four_one_preempted_asks_for_everything_once(slurm, proxy, tmp_path):
    opened = threading.Event()  # after 20 answers the server waits: all four have claimed something and none can have finished

    def trouble(number, path):
        probe = proxy.asked[number].get("n_predict", 0) <= 2
        return None if probe or len(asked(proxy)) <= 20 or opened.wait(300) else "500"

    proxy.trouble = trouble
    given = [str(a) for a in arguments(tmp_path / "run", proxy.url)]
    jobs = slurm(
        "sbatch",
        "--parsable",
        "--array=1-4",
        f"--output={tmp_path}/%a.log",
        f"--export=ALL,PYTHON={sys.executable}",
        str(SCRIPT),
        "generate",
        *given,
    )

    def said():
        return [path.read_text() for path in tmp_path.glob("*.log")]

    until(
        lambda: sum("exact token ids" in text for text in said()) == 4,
        180,
        "four jobs that have begun",
    )
    until(lambda: len(asked(proxy)) > 20 and len(logged(tmp_path / "run")) >= 10, 120, "answers")
    urgent = slurm(
        "sbatch", "--parsable", "--partition=high", "--output=/dev/null", "--wrap", "sleep 1"
    )
    until(
        lambda: re.search(r"PreemptTime=\d", slurm("scontrol", "show", "job", jobs)),
        60,
        "a job to be preempted",
    )
    time.sleep(
        1
    )  # its signal travels; then what it has in flight is answered, and it stops before it asks more
    opened.set()
    until(
        lambda: any("stopped by SIGUSR1" in text for text in said()),
        60,
        "the preempted job to stop by itself",
    )
    until(lambda: not slurm("squeue", "-h"), 180, "the queue to be empty")
    assert field(slurm("scontrol", "show", "job", urgent), "JobState") == "COMPLETED"
    tasks = slurm("scontrol", "show", "job", jobs).split("\n\n")
    assert [field(task, "JobState") for task in tasks] == ["COMPLETED"] * 4, said()
    assert sorted(int(field(task, "Restarts")) for task in tasks) == [0, 0, 0, 1]

    num_asked = len(asked(proxy))
    result = run(*given, word="generate")
    assert result.returncode == 0 and len(asked(proxy)) == num_asked, "the jobs left nothing to ask"
    rows = logged(tmp_path / "run")
    manifest = json.loads((tmp_path / "run/generate/manifest.json").read_text())
    assert len(rows) == len({row["key"] for row in rows}) == manifest["result"]["num_asked"]
    assert num_asked <= len(rows) + 6, "no call beyond those that the preempted job had in flight"
