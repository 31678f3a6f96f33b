"""The command `thesis`: run the report, one notebook or one stage, look at parameters and progress, check data.

Heavy modules are imported by the command that needs them, after the number of threads is set.
"""

import argparse
import fcntl
import os
import subprocess
import sys
import time
import traceback
from contextlib import contextmanager, nullcontext
from pathlib import Path

from thesis_lib import execute, params, paths


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 something failed or data is unusable, 2 a mistake in the call, 130 stopped by Ctrl-C."""
    args = parser().parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", str(_threads(2)))  # before torch is imported
    try:
        return args.command(args) or 0
    except (ValueError, FileNotFoundError) as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if not raised_in.is_relative_to(paths.ROOT / "thesis_lib"):
            raise  # not a user's mistake that our code has described
        print(f"thesis: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # thesis params 04 | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("thesis: stopped; the same command goes on from here", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="thesis", description=__doc__.splitlines()[0])
    commands = top.add_subparsers(required=True, metavar="command")

    def command(function, name, *, profile=True):
        sub = commands.add_parser(name, help=function.__doc__.splitlines()[0], description=function.__doc__)
        sub.set_defaults(command=function)
        if profile:
            sub.add_argument("--profile", default="mini", help="folder of params/ (default: mini)")
        return sub

    sub = command(run, "run")
    sub.add_argument("notebooks", nargs="*", metavar="NN", help="only these notebooks or stages and what they need")
    sub.add_argument("--no-appendices", action="store_true", help="leave out the notebooks A1, A2, ...")
    sub.add_argument("--jobs", type=int, default=2, help="processes at once (default: 2)")
    sub.add_argument("--gpus", type=int, help="GPUs of this machine to hand out, to each job its own; others wait")
    sub.add_argument("--threads", type=int, help="CPUs of a process (default: those of this machine over --jobs)")
    sub.add_argument("--force", action="store_true", help="execute even what is up to date")
    sub.add_argument("--snakemake", default="", metavar="OPTIONS", help='more options, such as "--executor slurm"')
    sub = command(notebook, "notebook")
    sub.add_argument("notebook", metavar="NN")
    sub.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), dest="overrides")
    sub = command(stage, "stage")
    sub.add_argument("name")
    sub.add_argument("arguments", nargs="*", metavar="KEY=VALUE")
    sub.add_argument("--params", type=_profile_of, dest="profile", help="a file of a profile, instead of --profile")
    command(report, "report")
    command(status, "status")
    sub = command(show_params, "params", profile=False)
    sub.add_argument("notebook", metavar="NN")
    sub = command(check_data, "check-data", profile=False)
    sub.add_argument("--root", required=True, type=Path, help="50Salads, published or raw, or HowTo100M")
    sub.add_argument("--no-decode", action="store_true", help="count frames by the videos' index, do not read them all")
    sub = command(evaluate, "evaluate", profile=False)
    sub.add_argument("--predictions", required=True, type=Path, help="folder of <video>.txt")
    sub.add_argument("--ground-truth", required=True, type=Path, help="folder of <video>.txt, a label a line")
    sub.add_argument("--fps", type=float, default=30.0, help="of both (default: 30)")
    sub.add_argument("--fps-out", type=float, help="evaluate at this rate instead")
    sub.add_argument("--bundle", type=Path, help="score the videos that this file lists")
    sub.add_argument("--segment-end", choices=("exclusive", "asformer"), default="exclusive")
    sub.add_argument("--background", nargs="*", default=(), help="labels left out of edit score and F1")
    sub.add_argument("--json", type=Path, help="write the metrics to this file too")
    sub = command(import_videos, "import-videos", profile=False)
    sub.add_argument("--videos", required=True, type=Path, help="folder of videos")
    sub.add_argument("--labels", required=True, type=Path, help="CSV: video,start,end,label (s) or video,frame,label")
    sub.add_argument("--out", required=True, type=Path, help="new folder, such as data/NAME")
    sub.add_argument("--classes", type=Path, help="a class name a line (default: those of the labels)")
    sub.add_argument("--splits", type=Path, help="CSV: video,split that tests it (default: five, drawn)")
    sub.add_argument("--background", default="", metavar="CLASS", help="of frames without a label (default: an error)")
    sub.add_argument("--seed", type=int, default=0, help="of the drawn splits")
    sub.add_argument("--profile-from", metavar="PROFILE", help="write params/NAME too, with the values of this profile")
    sub = command(import_weights, "import-weights", profile=False)
    sub.add_argument("kind")
    sub.add_argument("path", type=Path)
    return top


def run(args) -> int:
    """Execute all notebooks, or those given, and build the report; what is up to date is left as it is."""
    from thesis_lib import gpus, graph, progress, rules, warm

    jobs, every = graph.jobs(args.profile), rules.notebooks(not args.no_appendices)
    staged = [text for text in args.notebooks if text in jobs]
    chosen = [params.find(text) for text in args.notebooks if text not in jobs]
    for name in {jobs[job]["notebook"] for job in staged} if staged and not chosen else {*every, *chosen}:
        params.load(name, args.profile)  # every mistake is found before anything starts
    if args.gpus is not None:
        _enough_gpus(args, jobs)
        os.environ["THESIS_GPUS"] = gpus.names(args.gpus)
    folder, start = paths.report(args.profile), time.time()
    targets = [f"notebooks/{name}.ipynb" for name in chosen] + [f"jobs/{job}.done" for job in staged] or ["all"]
    threads = args.threads or _threads(args.jobs)
    command = [sys.executable, "-m", "snakemake", *targets, "--snakefile", str(paths.ROOT / "Snakefile")]
    command += ["--directory", str(folder)]
    command += ["--config", f"profile={args.profile}", f"threads={threads}"]
    command += [f"appendices={int(not args.no_appendices)}"]
    command += ["--cores", str(args.jobs * threads), "--jobs", str(args.jobs)]
    command += ["--keep-going", "--rerun-incomplete", "--scheduler", "greedy"]
    command += ["--nolock"]  # a killed run leaves Snakemake's lock behind; ours goes with the process
    command += ["--resources", f"gpu={args.gpus}"] if args.gpus is not None else []
    command += (["--forcerun", *targets] if args.notebooks else ["--forceall"]) if args.force else []
    here = nullcontext() if "--executor" in args.snakemake else warm.server(threads)
    with _only_run(folder) as lock, open(folder / "logs" / "graph.log", "w+") as log, here:
        code = subprocess.run([*command, *args.snakemake.split()], pass_fds=[lock], stderr=log).returncode
        log.seek(0)
        said = log.read()
        if code:
            _set_aside_stale(command, folder)
    if code == 0:
        files = [folder / target for target in (targets if args.notebooks else ["report.html", "report.pdf"])]
        changed = any(file.stat().st_mtime >= start for file in files)
        places = ", ".join(paths.short(file) for file in files)
        print(f"{places}  done  {time.time() - start:.0f} s" if changed else f"nothing to do: {places} up to date")
        return 0
    shown = chosen or ([] if staged else every)
    states = {row.name: row.state for row in progress.rows(args.profile) if row.name in shown}
    print("\n".join(f"{name}  {state}" for name, state in states.items() if state != "done"))
    if "failed" not in states.values():  # then it is the graph itself, and only Snakemake has said why
        print(said[-2000:])
    if not args.notebooks:
        report(args)
    return 1


def notebook(args) -> int:
    """Execute one notebook with the parameters of a profile; what it misses it computes.

    With -p, values replace those of the profile, and everything is written to reports/custom/<profile>/ instead.
    """
    if args.overrides:
        paths.REPORTS = paths.REPORTS / "custom"  # or a trial would pass for the profile's result
        os.environ["THESIS_REPORTS"] = str(paths.REPORTS)
    return not execute.run_notebook(params.find(args.notebook), args.profile, dict(args.overrides))


def stage(args) -> int:
    """Compute a stage: a job of the graph by its name, or any stage with its arguments."""
    import yaml

    arguments = dict(text.partition("=")[::2] for text in args.arguments)
    return not execute.run_stage(
        args.name, args.profile, {key: yaml.safe_load(text) for key, text in arguments.items()}
    )


def report(args) -> None:
    """Build report.html and report.pdf from the executed notebooks, with a box where one failed."""
    from thesis_lib import report

    for path in report.build(args.profile):
        print(paths.short(path))


def status(args) -> None:
    """Show which jobs and notebooks are done (accuracy), running (epoch, time left), queued, failed (why)."""
    from thesis_lib import progress

    print(progress.table(args.profile))


def show_params(args) -> None:
    """List the parameters of a notebook: name, type, help, default and the value in each profile."""
    name = params.find(args.notebook)
    profiles = {profile: params.layered(name, profile)[0] for profile in params.profiles(name)}
    for parameter in params.declared(name).values():
        kind = next(text for text, known in params.TYPES.items() if known == parameter.type)
        print(f"{parameter.name}: {kind} = {parameter.default!r}  # {parameter.help}")
        print("    " + "  ".join(f"{profile}: {values[parameter.name]!r}" for profile, values in profiles.items()))


def check_data(args) -> int:
    """Say what is there, missing and odd in a folder of 50Salads or HowTo100M; exit 1 if it is unusable."""
    from thesis_lib.data import check

    return check.main(args.root, decode=not args.no_decode)


def evaluate(args) -> None:
    """Score a folder of predictions, in the MS-TCN format or one label a line, against ground truth."""
    from thesis_lib.evaluate import main_table

    settings = dict(bundle=args.bundle, segment_end=args.segment_end, background=args.background)
    main_table(args.predictions, args.ground_truth, args.fps_out, args.json, fps=args.fps, **settings)


def import_videos(args) -> None:
    """Make a data set of videos and labels of your own, and a profile for it; see thesis_lib/data/own_videos.py."""
    from thesis_lib.data import own_videos

    names = ("videos", "labels", "out", "classes", "splits", "background", "seed")
    print(own_videos.import_videos(**{name: getattr(args, name) for name in names}))
    if args.profile_from:
        folder = own_videos.make_profile(args.out, args.profile_from)
        print(f"{paths.short(folder)}: thesis run --profile {folder.name}")


def import_weights(args) -> None:
    """Load official weights: what matched, what was dropped, sha256, and one forward pass."""
    from thesis_lib.models import official

    official.main(args.kind, args.path)


def _profile_of(file: str) -> str:
    folder = Path(file).resolve().parent
    if folder.parent != paths.PARAMS:
        raise argparse.ArgumentTypeError(f"{file}: expected a file in a folder of {paths.PARAMS}")
    return folder.name


def _threads(jobs: int) -> int:
    return max(1, len(os.sched_getaffinity(0)) // jobs)  # two processes of one thread beat one of two


def _enough_gpus(args, jobs: dict) -> None:
    if "--executor" in args.snakemake:
        raise ValueError("--gpus is for the jobs of this machine: leave it out, the executor hands out its own")
    most = max(jobs, key=lambda job: jobs[job].get("processes", 1))
    if jobs[most].get("processes", 1) > args.gpus:
        raise ValueError(f"--gpus {args.gpus}: {most} is set to {jobs[most]['processes']} processes, each with a GPU")


def _set_aside_stale(command: list[str], folder: Path) -> None:
    """Rename executed notebooks that what failed keeps from being made anew: the report must not show them."""
    summary = subprocess.run([*command, "--summary"], capture_output=True, text=True).stdout
    for row in summary.splitlines():
        file, *_, plan = row.split("\t")
        if plan == "update pending" and file.startswith("notebooks/") and (folder / file).exists():
            (folder / file).rename((folder / file).with_suffix(".stale.ipynb"))


@contextmanager
def _only_run(folder: Path):
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{paths.short(folder)}: another run is going on; this one waits for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


if __name__ == "__main__":
    sys.exit(main())
