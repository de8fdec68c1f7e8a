"""The long proof that nothing is lost: counted experiments and their outcomes.

    python tests/torture.py                      # all, at full length
    python tests/torture.py kills=20 faults      # some; so many times, or at full length
    python tests/torture.py --short              # all, as the quick test suite runs them

Each line says what was tried, how often, and with which outcome. The exit code is 1 if an outcome
is wrong. The runs are forks of this process, which start within milliseconds.
"""

from __future__ import annotations

import argparse
import builtins
import contextlib
import errno
import io
import math
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import hypothesis
import mutations
import numpy as np
import sklearn.datasets
import test_config

from minidl import atomic, checkpoint, cli, predictor
from minidl.config import load_config
from minidl.errors import CheckpointError, DivergenceError
from minidl.runs import folder as run_folder
from minidl.runs.experiment import Experiment

ROOT = Path(__file__).resolve().parent.parent
PLAIN = """
data: {name: digits, preprocessing: global_standard}
model: [linear: 32, relu, linear: auto]
train:
  epochs: 6
  batch_size: 32
  optimizer: {name: sgd, learning_rate: 0.1, momentum: 0.9}
  schedule: one_cycle
  checkpoint_every: {steps: 29}
output: {report: false}
"""
RICH = """
data: {name: digits, preprocessing: global_standard, augmentation: [shift: 1]}
model: [linear: 32, batch_norm, relu, dropout: 0.2, linear: auto]
train:
  epochs: 4
  batch_size: 32
  optimizer: {name: adamw, learning_rate: 0.003}
  schedule: cosine
  ema: 0.99
  mixup: 0.2
  early_stopping: {patience: 4}
  shards: 2
  checkpoint_every: {steps: 29}
output: {report: false}
"""
CONFIGS = {"plain": PLAIN, "rich": RICH}

Outcome = tuple[str, bool]


# ---- runs in processes of their own


class Process:
    """`minidl train ARGUMENTS` in a fork, its output in a file."""

    def __init__(
        self, arguments: Sequence[object], log: Path, prepare: Callable[[], None] | None = None
    ) -> None:
        self.log = log
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of forks of processes with threads
            self.pid = os.fork()
        if self.pid == 0:
            self._run([str(argument) for argument in arguments], prepare)

    def wait(self) -> int:
        """The exit code, or minus the number of the signal that killed it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    @property
    def output(self) -> str:
        """What it printed."""
        return self.log.read_text(errors="replace")

    def _run(self, arguments: list[str], prepare: Callable[[], None] | None) -> None:
        code = 99
        try:
            file = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            if prepare is not None:
                prepare()
            code = cli.main(["train", *arguments])
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
            os._exit(code)


class Workshop:
    """A folder for runs of one config, and what the run gives that nothing disturbs."""

    def __init__(self, folder: Path, name: str, config: str, prepare: Any = None) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        self.config = self.folder / f"{name}.yaml"
        self.config.write_text(config)
        self.log = self.folder / "log"
        started = time.perf_counter()
        process = Process([self.config, "--out", self.folder / "whole"], self.log, prepare)
        assert process.wait() == 0, process.output
        self.seconds = time.perf_counter() - started
        self.expected = outcome_of(self.folder / "whole")

    def arguments(self, out: Path) -> list[object]:
        """What starts the run in `out`, or goes on with it if it has begun."""
        return ["--resume", out] if (out / "config.yaml").exists() else [self.config, "--out", out]

    def completes_equal(self, out: Path) -> bool:
        """Let the run in `out` end undisturbed; whether it then is the undisturbed run."""
        code = Process(self.arguments(out), self.log).wait()
        return code == 0 and outcome_of(out) == self.expected


def outcome_of(folder: Path) -> tuple[Any, ...]:
    """The model's bytes, and all records but the times."""
    rows = [line.rsplit(",", 1)[0] for line in (folder / "metrics.csv").read_text().splitlines()]
    results = [line for line in (folder / "results.json").read_text().splitlines()]
    timeless = [line for line in results if "seconds" not in line]
    return (folder / "model.npz").read_bytes(), rows, timeless


def load_digits_once() -> None:
    """Reading the digits takes longer than training on them."""
    digits = sklearn.datasets.load_digits()
    sklearn.datasets.load_digits = lambda **options: digits


# ---- the experiments


def kills(n: int, folder: Path) -> Outcome:
    """SIGKILL at random moments, resumed until done."""
    shops = [Workshop(folder, name, text) for name, text in CONFIGS.items()]
    rng = random.Random(1)
    counts: Counter[str] = Counter()
    for i in range(n):
        shop = shops[i % len(shops)]
        out = shop.folder / "run"
        for _ in range(12):
            process = Process(shop.arguments(out), shop.log)
            time.sleep(rng.uniform(0, 1.1 * shop.seconds))
            os.kill(process.pid, signal.SIGKILL)
            code = process.wait()
            if code == 0:
                break
            counts["kills"] += 1
            if code != -signal.SIGKILL:
                counts[f"exit {code}"] += 1
                print(process.output)
        counts["equal"] += shop.completes_equal(out)
        shutil.rmtree(out)
    said = f"{n} runs, {counts['kills']} kills, {counts['equal']} final models and records equal"
    return said, counts["equal"] == n and set(counts) <= {"kills", "equal"}


class DiskFault:
    """Lets the nth call that reaches the disk fail, once or for good, in this process."""

    def __init__(self, at: int | None, code: int, lasting: bool = False) -> None:
        self.at, self.code, self.lasting, self.n_calls = at, code, lasting, 0

    def install(self) -> None:
        """Put the fault between the program and the operating system."""
        for name in ("fsync", "replace", "link"):
            setattr(os, name, self._failing(getattr(os, name)))
        for module in (atomic, run_folder):
            module.open = self._open  # type: ignore[attr-defined]

    def count(self) -> None:
        """Count a call, and let it fail if it is its turn."""
        self.n_calls += 1
        n, at = self.n_calls - 1, self.at
        if at is not None and (n == at or (self.lasting and n > at)):
            raise OSError(self.code, os.strerror(self.code))

    def _failing(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def failing(*arguments: Any, **options: Any) -> Any:
            self.count()
            return call(*arguments, **options)

        return failing

    def _open(self, path: Any, mode: str = "r", **options: Any) -> Any:
        if set(mode) & set("wxa"):
            self.count()
            raw = _FaultyRaw(str(path), mode.replace("b", ""), self)
            binary = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw, 4096)
            return binary if "b" in mode else io.TextIOWrapper(binary, newline="")
        return builtins.open(path, mode, **options)


class _FaultyRaw(io.FileIO):
    """A file that may fail; writes and flushes of all sizes come here."""

    def __init__(self, path: str, mode: str, fault: DiskFault) -> None:
        super().__init__(path, mode)
        self.fault = fault

    def write(self, data: Any, /) -> int:
        self.fault.count()
        return super().write(data)


def faults(n: int, folder: Path) -> Outcome:
    """A fault at every write, flush, sync and rename of a run; n: at most so many places."""
    shop = Workshop(folder, "faults", PLAIN.replace("steps: 29", "steps: 90"))
    probe = DiskFault(None, 0)
    total = _count_calls(shop, probe)
    places = range(total) if n >= total else sorted(random.Random(2).sample(range(total), n))
    counts: Counter[str] = Counter()
    wrong = []
    for code in (errno.ENOSPC, errno.EIO, errno.EINTR):
        for lasting in (False, True) if code == errno.ENOSPC else (False,):
            for at in places:
                out = shop.folder / "run"
                fault = DiskFault(at, code, lasting)
                process = Process(shop.arguments(out), shop.log, fault.install)
                exit_code, output = process.wait(), process.output
                clear = exit_code == 0 or (
                    exit_code in (2, 5) and 0 < len(output) < 3000 and "Traceback" not in output
                )
                last = checkpoint.paths(out / "checkpoints")[0]
                loadable = not last.parent.exists() or _loads(last.parent)
                good = clear and loadable and shop.completes_equal(out)
                counts["stopped" if exit_code else "went on"] += 1
                counts["good"] += good
                if not good:
                    wrong.append((errno.errorcode[code], at, exit_code, output))
                shutil.rmtree(out, ignore_errors=True)
    for each in wrong[:5]:
        print(*each)
    tried = counts["stopped"] + counts["went on"]
    said = (
        f"{total} places, {tried} faults (ENOSPC once and for good, EIO, EINTR): "
        f"{counts['stopped']} stopped with a message, {counts['went on']} went on; "
        f"{counts['good']} left a good checkpoint and were completed to the same model"
    )
    return said, counts["good"] == tried


def _count_calls(shop: Workshop, probe: DiskFault) -> int:
    """How many calls of a whole run reach the disk."""
    tally = shop.folder / "tally"

    def prepare() -> None:
        probe.install()
        end = os._exit

        def exit_with_tally(code: int) -> None:
            tally.write_text(str(probe.n_calls))
            end(code)

        os._exit = exit_with_tally  # type: ignore[assignment]

    out = shop.folder / "counted"
    process = Process([shop.config, "--out", out], shop.log, prepare)
    assert process.wait() == 0, process.output
    return int(tally.read_text())


def _loads(folder: Path) -> bool:
    """Whether a checkpoint can be read, or there is none yet."""
    try:
        checkpoint.recover(folder, lambda *found: None, lambda text: None)
    except CheckpointError:
        return False
    return True


def full_disk(n: int, folder: Path) -> Outcome:
    """A disk that is really full, each time elsewhere: a small tmpfs, where one can mount."""
    disk = folder / "disk"
    disk.mkdir()
    shop = Workshop(folder, "full", PLAIN)
    needed = sum(f.stat().st_size for f in (shop.folder / "whole").rglob("*") if f.is_file())
    rng = random.Random(3)
    counts: Counter[str] = Counter()
    for _ in range(n):
        size = rng.randrange(1, needed // 1024 + 40)
        mounting = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(disk)]
        if subprocess.run(mounting, capture_output=True).returncode:
            return "not tried: this machine does not let us mount a small disk", True
        try:
            out = disk / "run"
            process = Process(shop.arguments(out), shop.log)
            code, output = process.wait(), process.output
            clear = code == 0 or (code in (2, 5) and "No space left" in output)
            counts["filled up"] += code != 0
            room = ["mount", "-o", f"remount,size={4 * needed}", str(disk)]
            subprocess.run(room, check=True, capture_output=True)
            good = clear and "Traceback" not in output and shop.completes_equal(out)
            if not good:
                print(size, code, output, sorted(file.name for file in out.rglob("*")))
            counts["good"] += good
        finally:
            subprocess.run(["umount", str(disk)], check=True, capture_output=True)
    said = (
        f"{n} small disks, {counts['filled up']} filled up, {counts['good']} completed to the "
        "same model once there was room"
    )
    return said, counts["good"] == n


def damage(n: int, folder: Path) -> Outcome:
    """Damaged and forged checkpoints and models, read with little memory to spare."""
    shop = Workshop(folder, "damage", RICH.replace("linear: 32", "linear: 4"))
    files: dict[Path, Callable[[Path], Any]] = {
        shop.folder / "whole/checkpoints/last.npz": lambda path: _plain(checkpoint.load(path)),
        shop.folder / "whole/model.npz": _predictions,
    }
    totals: Counter[str] = Counter()
    for path, read in files.items():
        data = path.read_bytes()
        limit = len(data) + 64 * 2**20
        with _memory_limit(limit):
            totals += mutations.survey(data, read, n // 2, seed=4, folder=shop.folder)
    said = f"{n} mutants of a checkpoint and a model: " + ", ".join(
        f"{count} {what}" for what, count in totals.most_common()
    )
    return said, set(totals) <= {"refused", "identical"}


def _plain(found: object) -> str:
    with np.printoptions(threshold=sys.maxsize, floatmode="unique"):
        return repr(found)


def _predictions(path: Path) -> tuple[Any, ...]:
    model = predictor.load(path)
    outputs = model.predict_proba(np.linspace(0, 16, 5 * 64).reshape(5, 64))
    return outputs.tobytes(), model.classes, model.feature_names, model.model.params.tobytes()


@contextlib.contextmanager
def _memory_limit(n_bytes: int) -> Iterator[None]:
    """Let this process take no more than `n_bytes` above what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def fuzz(n: int, folder: Path) -> Outcome:
    """Configs damaged byte by byte and rearranged at random: accepted, or refused with reasons."""
    slowest, tried = 0.0, 0

    def check(content: bytes, overrides: Sequence[str]) -> None:
        nonlocal slowest, tried
        started = time.process_time()
        test_config.accepted_or_refused(content, overrides)
        slowest = max(slowest, time.process_time() - started)
        tried += 1

    texts = hypothesis.strategies.lists(test_config.override_texts, max_size=3)
    for files in (test_config.damaged_files(), test_config.rearranged_files()):
        test_config.fuzzing(n // 2)(hypothesis.given(files, texts)(check))()
    return f"{tried} configs, none failed otherwise; the slowest took {slowest:.2f} s", slowest < 1


def signals(n: int, folder: Path) -> Outcome:
    """SIGINT or SIGTERM at random moments of a run on MNIST (or digits where it is not at hand)."""
    text = re.sub("epochs: .*", "epochs: 2", (ROOT / "configs/mnist.yaml").read_text())
    if n < 10 or not os.environ.get("MINIDL_DATA_DIR"):
        text = PLAIN.replace("epochs: 6", "epochs: 60").replace("steps: 29", "seconds: 30.0")
    shop = Workshop(folder, "signals", text)
    rng = random.Random(5)
    counts: Counter[str] = Counter()
    waits: list[float] = []
    seconds = shop.seconds
    while len(waits) < n:
        number = (signal.SIGINT, signal.SIGTERM)[len(waits) % 2]
        out = shop.folder / "run"
        process = Process(shop.arguments(out), shop.log)
        delay = rng.uniform(0, seconds)
        time.sleep(delay)
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            seconds = max(0.9 * seconds, 0.1)  # it was faster than the first one
            process.wait()
            shutil.rmtree(out)
            continue
        sent = time.perf_counter()
        os.kill(process.pid, number)
        code = process.wait()
        if code == -number and run_folder.RunFolder(out).status().get("status") == "finished":
            shutil.rmtree(out)  # it came after the end as well, while Python was closing down
            continue
        waits.append(time.perf_counter() - sent)
        written = (out / "checkpoints/last.npz").exists()
        told = f"--resume {out}" in process.output
        if code == 128 + number and written and told:
            kind = "stopped with a checkpoint and the command"
        elif code in (128 + number, -number) and not written and not (out / "metrics.csv").exists():
            kind = "stopped before the first step"
        elif code in (0, 128 + number) and (out / "results.json").exists():
            kind = "came after the last step"
        else:
            kind = f"exit {code}"
            print(process.output)
        counts[kind] += 1
        equal = shop.completes_equal(out)
        counts["equal"] += equal
        shutil.rmtree(out, ignore_errors=True)
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items() if kind != "equal")
    said = (
        f"{n} signals: {kinds}; {counts['equal']} completed to the same model; stopped after "
        f"{median(waits):.3f} s in the median, {max(waits):.3f} s at most"
    )
    return said, counts["equal"] == n and not any(kind.startswith("exit") for kind in counts)


def divergences(n: int, folder: Path) -> Outcome:
    """Rates, inputs and weights that make training diverge: found in the step where it happens."""
    counts: Counter[str] = Counter()
    rng = random.Random(6)
    for i in range(n):
        path = folder / "divergence.yaml"
        path.write_text(CONFIGS[("plain", "rich")[i % 2]])
        config = load_config(path, ["train.epochs=3", "train.early_stopping=null"])
        training = Experiment(config).training()
        at, kind = rng.randrange(1, 60), ("rate", "weight", "input")[i % 3]
        found = None
        try:
            with np.errstate(all="ignore"):
                while not training.finished and found is None:
                    if training.progress["step"] == at:
                        _poison(training, kind, rng)
                    training.step()
                    arrays = [training.model.params, training.model.buffers]
                    if not all(np.isfinite(array).all() for array in arrays):
                        found = "missed"
        except DivergenceError as error:
            found = "named" if "layer" in str(error) or "input" in str(error) else "not named"
        counts[found or "did not diverge"] += 1
    said = f"{n} divergences, {counts['named']} found in the same step and traced to their origin"
    return said, counts["named"] == n


def _poison(training: Any, kind: str, rng: random.Random) -> None:
    """Make the next step, or one of those after it, go wrong."""
    if kind == "rate":
        training.optimizer.learning_rate = 10 ** rng.uniform(30, 38)
    elif kind == "weight":
        W = training.model.layers[rng.choice((0, len(training.model.layers) - 1))].W
        W[rng.randrange(W.shape[0]), rng.randrange(W.shape[1])] = rng.choice((np.inf, np.nan))
    else:
        X = training.train.X
        X[:, rng.randrange(1, X.shape[1])] = math.inf


def cost(n: int, folder: Path) -> Outcome:
    """What checkpoints at the default interval cost the run on MNIST, the median of n."""
    shares = []
    if n == 0 or not os.environ.get("MINIDL_DATA_DIR"):
        return "not tried: it takes an idle machine and MNIST (MINIDL_DATA_DIR)", True
    for _ in range(n):
        out = folder / "run"
        log = folder / "log"

        def prepare() -> None:
            spent = [0.0]
            save = checkpoint.save

            def timed(*arguments: Any) -> None:
                started = time.perf_counter()
                save(*arguments)
                spent[0] += time.perf_counter() - started
                print(f"checkpoints {spent[0]}", file=sys.stderr, flush=True)

            checkpoint.save = timed

        process = Process([ROOT / "configs/mnist.yaml", "--out", out, "--quiet"], log, prepare)
        assert process.wait() == 0, process.output
        spent = float(process.output.split()[-1])
        seconds = run_folder.RunFolder(out).status()["train_seconds"]
        shares.append(spent / seconds)
        shutil.rmtree(out)
    share = median(shares)
    return f"{n} runs on MNIST: checkpoints took {share:.2%} of the training", share <= 0.035


EXPERIMENTS: dict[str, tuple[Callable[[int, Path], Outcome], int, int]] = {
    "kills": (kills, 200, 8),
    "faults": (faults, 10**6, 4),
    "full_disk": (full_disk, 50, 3),
    "damage": (damage, 100_000, 600),
    "fuzz": (fuzz, 10_000, 100),
    "signals": (signals, 100, 2),
    "divergences": (divergences, 51, 6),
    "cost": (cost, 5, 0),
}


def main() -> int:
    """Run the experiments that the command line names; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("experiments", nargs="*", metavar="NAME[=N]", help=", ".join(EXPERIMENTS))
    parser.add_argument("--short", action="store_true", help="few of each, in half a minute")
    options = parser.parse_args()
    chosen = [text.partition("=") for text in options.experiments or EXPERIMENTS]
    for name, _, number in chosen:
        if name not in EXPERIMENTS or (number and not number.isdecimal()):
            wrong = f"{name}={number}" if number else name
            parser.error(f"no experiment {wrong!r}; there are {', '.join(EXPERIMENTS)}")
    load_digits_once()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
    fast = "/dev/shm" if os.path.isdir("/dev/shm") else None  # the proof is not about disks
    all_good = True
    for name, _, number in chosen:
        experiment, full, short = EXPERIMENTS[name]
        n = int(number) if number else short if options.short else full
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="torture-", dir=fast) as folder:
            said, good = experiment(n, Path(folder))
        all_good &= good
        verdict = "good" if good else "NOT GOOD"
        print(f"{name}: {said} [{verdict}, {time.perf_counter() - started:.0f} s]", flush=True)
    return 0 if all_good else 1


if __name__ == "__main__":
    sys.exit(main())
