"""The graph of the report: stages first, then their notebooks, then the page.

    thesis run --profile mini --jobs 2                                        this machine
    thesis run --profile 50salads --jobs 5 --gpus 5                           five GPUs, each job one of its own
    thesis run --profile 50salads --jobs 16 --snakemake "--executor slurm"    SLURM, after pip install -e .[slurm]

Stages are listed by `thesis_lib.graph.jobs`. They keep results under runs/ by their inputs and code, so that a rule
that runs again for an edited comment only looks, and computes nothing. Resources are what SLURM is asked for; `--gpus`
makes a limit of them on this machine. Jobs that differ in a last number (i3d_features_0, i3d_features_1) fill one folder
together, each on another GPU; `thesis stage i3d_features_1 --profile 50salads` joins them from any machine that sees the
same runs/.
"""

import sys

from thesis_lib import graph, params, paths, rules

PROFILE = config.get("profile", "mini")
NOTEBOOKS = rules.notebooks(bool(config.get("appendices", 1)))
JOBS = graph.jobs(PROFILE)
GPUS = f"{sys.executable} -m thesis_lib.gpus"  # how many, then the command that gets them
THESIS = f"{sys.executable} -m thesis_lib.cli"
ON_GPU = int(params.layered(NOTEBOOKS[0], PROFILE)[0].get("device") != "cpu")  # what a job asks SLURM for
THREADS = config.get("threads", 1)  # Snakemake hands them to OpenMP and asks SLURM for as many CPUs
TORCHRUN = f"env OMP_NUM_THREADS={THREADS} {sys.executable} -m torch.distributed.run --standalone --nproc_per_node="
FIRST = rules.first(NOTEBOOKS, JOBS)
CODE = "jobs/code.done"  # as new as the newest source: a file for all, or Snakemake looks at each for each job


workdir: paths.report(PROFILE)


rule all:  # names every notebook, or one that failed would not be missed once a report stands
    input: "report.html", "report.pdf", expand("notebooks/{name}.ipynb", name=NOTEBOOKS)


rule report:
    input:
        expand("notebooks/{name}.ipynb", name=NOTEBOOKS),
        list(map(str, rules.page()))
    output: "report.html", "report.pdf"
    resources: mem_mb=2000, runtime=10, gpu=0
    shell: "{THESIS} report --profile {PROFILE}"


rule code:
    input: list(map(str, rules.sources()))
    output: touch(CODE)
    resources: mem_mb=100, runtime=1, gpu=0


def parameters(notebook):
    return list(map(str, rules.parameters(notebook, PROFILE)))


for job, about in JOBS.items():
    processes = about.get("processes", 1)
    rule:
        name: f"stage_{job}"
        input: parameters(about["notebook"]), CODE, [f"jobs/{need}.done" for need in about["needs"]]
        output: touch(f"jobs/{job}.done")
        resources: **{"mem_mb": 6000, "runtime": 720, "gpu": processes * ON_GPU, "nodes": 1} | about.get("resources", {})
        threads: THREADS * processes
        priority: int(job in FIRST)
        params:  # the shell line is read after the loop, when `job` is another
            job=job, thesis=THESIS if processes == 1 else f"{TORCHRUN}{processes} -m thesis_lib.cli"
        shell: "{GPUS} {resources.gpu} {params.thesis} stage {params.job} --profile {PROFILE}"


for notebook in NOTEBOOKS:
    rule:
        name: f"notebook_{notebook}"
        input:
            parameters(notebook), CODE,
            [f"jobs/{job}.done" for job in rules.stages(notebook, JOBS)],
            [f"notebooks/{need}.ipynb" for need in rules.needs(notebook, NOTEBOOKS)],
        output: f"notebooks/{notebook}.ipynb"
        resources: mem_mb=12000, runtime=240, gpu=ON_GPU
        threads: THREADS
        params: notebook=notebook
        shell: "{GPUS} {resources.gpu} {THESIS} notebook {params.notebook} --profile {PROFILE}"
