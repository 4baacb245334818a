"""A Slurm of its own on this machine: daemons of one node, or of several that differ in their host's name alone."""

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from run_helpers import ROOT, environment, free_port

NEEDS_SLURM = [
    pytest.mark.skipif(
        os.name != "posix" or os.geteuid() != 0, reason="only root can start a Slurm of its own"
    ),
    pytest.mark.skipif(
        not (shutil.which("slurmctld") and shutil.which("munged")),
        reason="no Slurm: apt-get install slurm-wlm munge",
    ),
]
SCRIPT = ROOT / "scripts" / "slurm" / "distill.sbatch"
HOST = socket.gethostname().partition(".")[0]
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5,socket={folder}/munge.socket
SlurmctldPort={controller}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
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
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=30 State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF State=UP
"""
NODE = "NodeName={name} NodeAddr=127.0.0.1 Port={port} CPUs=4 State=UNKNOWN\n"
Command = Callable[..., str]


def until(true: Callable[[], object], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.1)


def field(text: str, name: str) -> str:
    found = re.search(rf"\b{name}=(\S+)", text)
    assert found, f"no {name} in {text}"
    return found[1]


@contextmanager
def cluster(nodes: Sequence[str] = (HOST,)) -> Iterator[Command]:
    """Give a function that runs a Slurm command; the daemons end with the context.

    A node of another name than this host's has a host name of its own (a UTS namespace), and no more.
    """
    # not pytest's folder: the path of a socket has at most 107 bytes
    with (
        tempfile.TemporaryDirectory(prefix="slurm", ignore_cleanup_errors=True) as name,
        daemons(Path(name), nodes) as command,
    ):
        yield command


@contextmanager
def daemons(folder: Path, nodes: Sequence[str]) -> Iterator[Command]:
    (folder / "state").mkdir()
    text = CONFIG.format(host=HOST, folder=folder, controller=free_port())
    text += "".join(NODE.format(name=name, port=free_port()) for name in nodes)
    (folder / "slurm.conf").write_text(text)
    env = environment(SLURM_CONF=str(folder / "slurm.conf"))

    def command(*words: str) -> str:
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
        for name in nodes:
            elsewhere = ("unshare", "--uts", "sh", "-c", f"hostname {name} && exec slurmd")
            command(*(("slurmd",) if name == HOST else elsewhere))
        until(
            lambda: set(command("sinfo", "-h", "-N", "-o", "%T").split()) == {"idle"},
            30,
            "idle nodes",
        )
        yield command
    finally:
        subprocess.run(["scancel", "--user=root"], env=env, check=False)
        time.sleep(1)
        for pid in folder.glob("*.pid"):
            subprocess.run(["kill", pid.read_text().strip()], check=False)
