"""Many workers, one result: shards of any cut, every engine, and what happens when workers are stopped, killed or lost."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from autointerp.config import Config
from autointerp.errors import UserError
from autointerp.harvest.crew import Crew
from autointerp.harvest.engine import Job, engines
from autointerp.harvest.engines import processes, slurm
from autointerp.harvest.engines import ray as ray_engine
from autointerp.harvest.plan import Plan
from autointerp.harvest.runs import runs_of
from autointerp.harvest.stage import open_pass, sample, sample_shard
from autointerp.harvest.worker import Task, attempt
from tests.cli.test_bad_input import options, run
from tests.harvest.test_harvest import configured, dump

ROOT = Path(__file__).resolve().parents[2]
Settings = dict[str, object]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Everywhere the same number, since sums of floats depend on it: here, and by the environment in other processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", str(ROOT))
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def settings(tiny_settings: Settings) -> Settings:
    """Many parts, each on disk as soon as it is done."""
    return tiny_settings | {"sample.part_windows": 20, "sample.checkpoint_s": 0, "subject.device": "cpu"}


@pytest.fixture(scope="module")
def config(settings: Settings) -> Config:
    return configured(settings)


@pytest.fixture(scope="module")
def expected(config: Config, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[object, ...]]]:
    """The rows of the catalog that one process makes."""
    out = tmp_path_factory.mktemp("engines") / "one"
    sample(config, out)
    return dump(out / "catalog.duckdb")


def shards_in(out: Path) -> set[range]:
    markers = [json.loads(path.read_text()) for path in (out / "shards").glob("*/COMPLETE.json")]
    return {range(facts["begin"], facts["end"]) for facts in markers}


def n_parts(out: Path) -> int:
    return len(json.loads((out / "plan" / "COMPLETE.json").read_text())["tokens_per_part"])


def job_in(config: Config, out: Path) -> Job:
    harvest, _ = open_pass(runs_of(config, out), out, alone=True)
    return Job(config, out, harvest, None)


def ignore(tokens: int, note: str) -> None:
    pass


def tasks(config: Config, out: Path, count: int) -> list[Task]:
    return Crew(job_in(config, out), count, 1, ignore).tasks


# Shards of one's own


@pytest.mark.parametrize("order", [(1,), (2, 1), (5, 2, 7, 1, 3, 6, 4)], ids=["one", "two", "seven"])
def test_shards_in_any_order(config: Config, expected: object, tmp_path: Path, order: tuple[int, ...]) -> None:
    for index in order:
        said = sample_shard(config, tmp_path, index, len(order))
    assert "now merge them" in said and n_parts(tmp_path) == 15
    assert len(shards_in(tmp_path)) == len(order)
    sample(config, tmp_path)
    assert dump(tmp_path / "catalog.duckdb") == expected
    assert "complete" in sample_shard(config, tmp_path, 1, 2)


def test_a_share_without_parts(config: Config, tmp_path: Path) -> None:
    said = sample_shard(config, tmp_path, 1, 1000)
    assert "shard 1 of 1000 has nothing to do: the corpus has 15 parts" in said and not shards_in(tmp_path)


def test_different_cuts_one_after_the_other(config: Config, expected: object, tmp_path: Path) -> None:
    sample_shard(config, tmp_path, 1, 2)
    first = shards_in(tmp_path)
    sample_shard(config, tmp_path, 2, 3)
    [second] = shards_in(tmp_path) - first
    assert second.start == next(iter(first)).stop  # what the first has done is not done again
    sample(config, tmp_path)
    assert dump(tmp_path / "catalog.duckdb") == expected


def test_shards_that_overlap_and_shards_of_something_else(config: Config, expected: object, tmp_path: Path) -> None:
    """As when different cuts are begun at the same time; and a shard of other settings that lies in the folder."""
    one, other = tmp_path / "one", tmp_path / "other"
    sample_shard(config, one, 1, 2)
    shutil.copytree(one, other)
    shutil.rmtree(other / "shards")
    sample_shard(config, other, 2, 3)
    [a], [b] = shards_in(one), shards_in(other)
    assert a.start < b.start < a.stop < b.stop < n_parts(one)
    shutil.copytree(other / "shards", one / "shards", dirs_exist_ok=True)
    foreign = one / "shards" / f"{b.stop:05d}-{n_parts(one):05d}"
    shutil.copytree(one / "shards" / f"{a.start:05d}-{a.stop:05d}", foreign)
    facts = json.loads((foreign / "COMPLETE.json").read_text())
    facts |= {"fingerprint": "0" * len(facts["fingerprint"]), "begin": b.stop, "end": n_parts(one)}
    (foreign / "COMPLETE.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match="unfinished harvest with other settings"):
        sample(config, one)
    shutil.rmtree(foreign)
    sample(config, one)
    assert dump(one / "catalog.duckdb") == expected


def test_shards_begun_at_the_same_moment(settings: Settings, config: Config, expected: object, tmp_path: Path) -> None:
    """On an empty folder: one makes the plan, the other waits for it."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "autointerp", "sample", *options(settings), "--out", str(out), "--shard"]
    started = [
        subprocess.Popen([*command, f"{index}/2"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for index in (1, 2)
    ]
    said = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert sum(text.count("tokenise:") for text in said) == sum(text.count("conformance:") for text in said) == 1
    assert sorted(len(shard) for shard in shards_in(out)) == [n_parts(out) // 2, -(-n_parts(out) // 2)]
    sample(config, out)
    assert dump(out / "catalog.duckdb") == expected


# Workers that are started


def test_processes(
    config: Config, expected: dict[str, list[object]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample(config, tmp_path, engine="processes", workers=2)
    assert dump(tmp_path / "catalog.duckdb") == expected
    assert not (tmp_path / "workers").exists() and not (tmp_path / "shards").exists()
    err = capsys.readouterr().err
    [line] = [line for line in err.splitlines() if line.startswith("harvest:")][-1:]
    counts = line.split(" tokens")[0].removeprefix("harvest: ").split(" / ")
    assert counts[0] == counts[1] != "0" and err.count("conformance:") == 1


def test_slurm_jobs_by_submitits_local_cluster(config: Config, expected: object, tmp_path: Path) -> None:
    sample(config, tmp_path, engine="slurm", workers=2, engine_options={"cluster": "local", "threads": 1})
    assert dump(tmp_path / "catalog.duckdb") == expected


def test_ray(config: Config, expected: object, tmp_path: Path) -> None:
    import ray

    sample(config, tmp_path, engine="ray", workers=2)
    assert dump(tmp_path / "catalog.duckdb") == expected
    assert not ray.is_initialized()


def test_ray_on_a_cluster_of_two_nodes_where_a_worker_is_killed(
    config: Config, expected: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is replaced, and what it had finished is not done again. As many workers as the cluster has CPUs."""
    sign = tmp_path / "killed"

    def killed_once(task: Task) -> str | None:
        import os
        import signal

        from autointerp.harvest import passes
        from autointerp.harvest.worker import attempt

        if task.index == 2 and not sign.exists():
            original, parts = passes.batches, []

            def batches(*given):  # type: ignore[no-untyped-def]
                parts.append(1)
                if len(parts) == 4:
                    sign.write_text(str(os.getpid()))
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*given)

            passes.batches = batches
        return attempt(task)

    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        monkeypatch.setattr(ray_engine, "attempt", killed_once)
        sample(config, tmp_path / "run", engine="ray", engine_options={"address": cluster.address})
    finally:
        cluster.shutdown()
    assert sign.exists()
    assert dump(tmp_path / "run" / "catalog.duckdb") == expected


# Workers that fail

WORKER = """
import os, signal, sys, time
from pathlib import Path
from autointerp.harvest import worker
from autointerp.harvest.engines import processes

def attempt(task):
    if {how!r} == "wait":
        worker._Reporter(task, 0)
        time.sleep(600)
    if {how!r} == "killed":
        return killed_in_its_fourth_part(task)
    if task.index == 2 and {how!r} == "crash":
        raise RuntimeError("no such kernel")
    return "the model gives NaN" if task.index == 2 else None

def killed_in_its_fourth_part(task):
    from autointerp.harvest import passes
    def batches(*given):
        parts.append(1)
        if task.index == 2 and len(parts) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*given)
    original, parts = passes.batches, []
    passes.batches = batches
    return worker.attempt(task)

processes.attempt = attempt
processes.main()
"""


def changed_worker(folder: Path, how: str) -> list[str]:
    """The command of a worker that waits for ever, or the second of which fails."""
    script = folder / "worker.py"
    script.write_text(WORKER.format(how=how))
    return [sys.executable, str(script)]


def test_a_killed_process(config: Config, expected: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other worker finishes, the message says what to do, and the next run does what is missing and no more."""
    out = tmp_path / "run"
    monkeypatch.setattr(processes, "_COMMAND", changed_worker(tmp_path, "killed"))
    with pytest.raises(
        UserError, match=r"worker 2 of 2 was killed \(signal 9, .*\); run the same command again: only the"
    ):
        sample(config, out, engine="processes", workers=2)
    half, total = n_parts(out) // 2, n_parts(out)
    assert shards_in(out) == {range(0, half), range(half, half + 3)}
    harvested, original = [], Plan.part

    def noted(plan: Plan, index: int) -> object:
        harvested.append(index)
        return original(plan, index)

    monkeypatch.setattr(Plan, "part", noted)
    sample(config, out)
    assert harvested == list(range(half + 3, total))
    assert dump(out / "catalog.duckdb") == expected


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("mistake", r"^the model gives NaN$"),
        (
            "crash",
            r"^worker 2 of 2 failed with RuntimeError: no such kernel \(all it printed is in .*2\.log\); run the same",
        ),
    ],
)
def test_a_process_that_fails(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, message: str
) -> None:
    monkeypatch.setattr(processes, "_COMMAND", changed_worker(tmp_path, how))
    with pytest.raises(UserError, match=message):
        sample(config, tmp_path / "run", engine="processes", workers=2)


def test_slurm_jobs_that_fail(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from submitit.core.core import Job as SubmititJob

    class Failing:
        def __call__(self, task: Task) -> str | None:
            import os
            import signal

            if task.index == 1:
                raise RuntimeError("no such kernel")
            os.kill(os.getpid(), signal.SIGKILL)
            return None

    monkeypatch.setattr(slurm, "Work", Failing)
    monkeypatch.setattr(SubmititJob, "_results_timeout_s", 0)
    with pytest.raises(
        UserError, match=r"worker 1 of 2 failed with RuntimeError: no such kernel \(job .*1 more failed"
    ):
        sample(config, tmp_path, engine="slurm", workers=2, engine_options={"cluster": "local"})
    monkeypatch.setattr(Crew, "told", lambda crew, task, message: None)
    crew = Crew(job_in(config, tmp_path), 2, 1, ignore)
    [job] = slurm._executor(crew.out / "workers", {"cluster": "local"}).map_array(Failing(), crew.tasks[1:])
    slurm._note_end(crew, crew.tasks[1], job)
    with pytest.raises(UserError, match="worker 2 of 2 ended without an answer, as when it is killed"):
        crew.finish()


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(condition: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("how", ["Ctrl-C", "kill -9"])
def test_no_orphans(settings: Settings, tmp_path: Path, how: str) -> None:
    out, driver = tmp_path / "run", tmp_path / "driver.py"
    driver.write_text("from autointerp.cli import main\nfrom autointerp.harvest.engines import processes\n"
                      f"processes._COMMAND = {changed_worker(tmp_path, 'wait')!r}\nmain()\n")  # fmt: skip
    command = [
        sys.executable,
        driver,
        "sample",
        *options(settings),
        "--out",
        out,
        "--engine",
        "processes",
        "--workers",
        "2",
    ]
    parent = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_until(lambda: len(list((out / "workers").glob("*.json"))) == 2 or parent.poll() is not None)
    pids = [json.loads(path.read_text())["pid"] for path in (out / "workers").glob("*.json")]
    assert len(pids) == 2 and all(map(is_alive, pids))
    if how == "Ctrl-C":
        os.killpg(parent.pid, signal.SIGINT)  # as a terminal does it
    else:
        parent.kill()
    said = parent.communicate(timeout=120)[1]
    assert parent.returncode == (130 if how == "Ctrl-C" else -signal.SIGKILL) and "Traceback" not in said
    wait_until(lambda: not any(map(is_alive, pids)), 60)
    assert not any((out / "workers" / f"{index}.log").read_text() for index in (1, 2))


def test_ctrl_c_cancels_the_jobs_of_slurm(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Slurm whose jobs wait for ever: what is submitted is an array with the options given, and it is cancelled."""
    programs, calls = tmp_path / "bin", tmp_path / "calls"
    programs.mkdir()
    answers = {"srun": "", "sbatch": "Submitted batch job 7", "scancel": "",
               "sacct": "JobID|State|NodeList\n7_[0-1]|PENDING|None assigned"}  # fmt: skip
    for name, answer in answers.items():
        (programs / name).write_text(f"#!/bin/sh\necho {name} $* >> {calls}\nprintf '{answer}\\n'\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    notes: list[str] = []

    def stopped(tokens: int, note: str) -> None:
        notes.append(note)
        if len(notes) == 2:
            raise KeyboardInterrupt

    chosen, options = engines.get("slurm"), {"slurm_partition": "gpu", "gpus_per_node": 1, "slurm_time": "04:00:00"}
    job = replace(job_in(config, tmp_path / "run"), workers=2, options=options)
    chosen.check(2, options)
    with pytest.raises(KeyboardInterrupt):
        chosen.run(job, stopped)
    assert notes == ["0 of 2 workers at work"] * 2
    lines = calls.read_text().splitlines()
    assert [line for line in lines if line.startswith("scancel")] == ["scancel 7_0", "scancel 7_1"]
    text = next((tmp_path / "run" / "workers").glob("*.sh")).read_text()
    for line in ("--array=0-1%2", "--partition=gpu", "--gpus-per-node=1", "--time=04:00:00", "--job-name=autointerp"):
        assert f"#SBATCH {line}\n" in text


def test_ray_tasks_that_are_stopped_or_fail(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a connection that was open before, and stays open."""
    import ray

    def failing(task: Task) -> str | None:
        import os
        import signal

        if task.index == 1:
            raise RuntimeError("no such kernel")
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    def waiting(task: Task) -> str | None:
        import os
        import time
        from pathlib import Path

        (Path(task.out) / "workers" / f"pid{task.index}").write_text(str(os.getpid()))
        time.sleep(600)
        return None

    def stop_when_both_wait(tokens: int, note: str) -> None:
        if len(list((tmp_path / "workers").glob("pid*"))) == 2:
            raise KeyboardInterrupt

    job = replace(job_in(config, tmp_path), workers=2, options={"num_cpus": 1, "max_retries": 1})
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        monkeypatch.setattr(ray_engine, "attempt", waiting)
        with pytest.raises(KeyboardInterrupt):
            engines.get("ray").run(job, stop_when_both_wait)
        pids = [int(path.read_text()) for path in (tmp_path / "workers").glob("pid*")]
        wait_until(lambda: not any(map(is_alive, pids)), 20)
        monkeypatch.setattr(ray_engine, "attempt", failing)
        ends: list[str] = []
        monkeypatch.setattr(Crew, "failed", lambda crew, task, how: ends.append(f"{task.index} {how}"))
        engines.get("ray").run(job, ignore)
        killed, failed = sorted(ends, reverse=True)
        assert failed == "1 failed with RuntimeError: no such kernel" and killed.startswith(
            "2 was killed (WorkerCrashed"
        )
        with pytest.raises(UserError, match="a worker takes 3 CPUs and 0 GPUs, and no node of the cluster has as many"):
            engines.get("ray").run(replace(job, options={"num_cpus": 3}), ignore)
        assert ray.is_initialized()
    finally:
        ray.shutdown()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "auto"])
def test_no_ray_cluster_there(config: Config, tmp_path: Path, address: str) -> None:
    job = replace(job_in(config, tmp_path), options={"address": address})
    with pytest.raises(UserError, match=f"^--engine ray: no cluster answers at {address} "):
        engines.get("ray").run(job, ignore)


def test_gpus_are_dealt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert processes.visible_gpus("auto") == ["0", "1"] and processes.visible_gpus("cpu") == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7")
    assert processes.visible_gpus("cuda") == ["5", "GPU-7"] and processes.visible_gpus("cuda:1") == []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    assert processes.size(None, 2) == (2, 8) and processes.size(None, 0) == (4, 4) and processes.size(3, 2) == (3, 5)
    assert processes.size(40, 0) == (40, 1)


# Workers that do not see what they should


def test_a_worker_that_sees_other_files(config: Config, tmp_path: Path) -> None:
    [task] = tasks(config, tmp_path, 1)
    elsewhere = replace(task, out=str(tmp_path / "not mounted"))
    assert "does not find the plan in" in str(attempt(elsewhere)) and not (tmp_path / "not mounted").exists()
    assert "does not find the plan in" in str(attempt(replace(task, plan_fingerprint="0")))
    assert "does not find the same files of model" in str(attempt(replace(task, fingerprint="0")))
    assert "cannot enter /no/such/folder" in str(attempt(replace(task, cwd="/no/such/folder")))
    assert not shards_in(tmp_path)


def test_relative_paths(settings: Settings, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They mean the same to a worker that was started elsewhere; absolute ones ask for no folder."""
    monkeypatch.chdir(tiny_model.parent)
    given = tasks(configured(settings, subject__model=tiny_model.name), Path(os.path.relpath(tmp_path / "run")), 2)
    monkeypatch.chdir("/")
    assert [attempt(task) for task in given] == [None, None]
    assert {len(shard) for shard in shards_in(tmp_path / "run")} <= {
        n_parts(tmp_path / "run") // 2,
        -(-n_parts(tmp_path / "run") // 2),
    }
    assert len(shards_in(tmp_path / "run")) == 2
    assert tasks(configured(settings), tmp_path / "absolute", 2)[0].cwd is None


def test_no_more_workers_than_parts_and_progress_of_what_was_done(config: Config, tmp_path: Path) -> None:
    job = job_in(config, tmp_path)
    job.harvest.harvest(range(3, job.harvest.plan.n_parts), ignore)
    seen: list[tuple[int, str]] = []
    crew = Crew(job, 8, 1, lambda tokens, note: seen.append((tokens, note)))
    assert [task.parts for task in crew.tasks] == [[0], [1], [2]]
    assert attempt(crew.tasks[1]) is None
    crew.watch()
    crew.told(crew.tasks[1], None)
    crew.failed(crew.tasks[0], "was killed")
    assert attempt(crew.tasks[1]) is None  # tried again: nothing is done, and it is as far as it was
    crew.watch()
    tokens = job.harvest.plan.tokens_per_part[1]
    assert seen == [(tokens, "1 of 3 workers at work"), (0, "0 of 3 workers at work, 1 failed")]
    assert (
        slurm.Work().checkpoint(crew.tasks[2]).result() is None
    )  # as submitit runs a job again that it has queued again
    assert shards_in(tmp_path) >= {range(1, 2), range(2, 3)}
    with pytest.raises(UserError, match=r"^worker 1 of 3 was killed; run the same command again"):
        crew.finish()


# The command line


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--engine", "proceses"], "no engine is named 'proceses'; there are: here, processes, ray, slurm"),
        (["--workers", "2"], "one process has one worker; add --engine processes"),
        (["--engine-option", "threads=1"], "--engine here has no option 'threads'; it has none"),
        (["--engine", "processes", "--engine-option", "gpus=1"], "has no option 'gpus'; there are: threads"),
        (["--engine", "processes", "--engine-option", "threads=0"], "threads=0: expected a whole number from 1"),
        (["--engine", "processes", "--engine-option", "threads"], "expected KEY=VALUE"),
        (["--engine", "slurm", "--engine-option", "cluster=big"], "cluster=big: expected slurm or local"),
        (["--engine", "slurm", "--engine-option", "cluster=local", "--engine-option", "slurm_partion=a"], "'partion'"),
        (["--engine", "slurm", "--engine-option", "nodes=2"], "a worker is one process"),
        (["--engine", "ray", "--engine-option", "num_gpus=x"], "num_gpus=x: expected a number from 0"),
        (["--shard", "1/2", "--engine", "ray"], "--shard harvests in this process"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_anything_is_done(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, settings: Settings, given: list[str], said: str
) -> None:
    code, err = run(capsys, "sample", *options(settings), "--out", tmp_path / "run", *given)
    assert code == 2 and said in err and err.count("\n") <= 4, err
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(shutil.which("srun") is not None, reason="there is a Slurm here")
def test_no_slurm() -> None:
    with pytest.raises(UserError, match="there is no Slurm here"):
        engines.get("slurm").check(None, {})


@pytest.mark.parametrize(("engine", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_missing_extra(monkeypatch: pytest.MonkeyPatch, engine: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"needs the package {package}: pip install 'autointerp\[{engine}\]'"):
        engines.get(engine).check(None, {})


def test_help_imports_nothing_heavy() -> None:
    code = ("import sys; from autointerp.cli import cli; cli.main(['sample', '--help'], standalone_mode=False); "
            "from autointerp.harvest.engine import engines; engines.names(); "
            "print({'ray', 'submitit', 'torch', 'transformers'} & set(sys.modules))")  # fmt: skip
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--engine-option" in said and said.endswith("set()\n")
