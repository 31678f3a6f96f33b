"""Heavy steps keep their results: the same inputs and the same code find them again, others compute anew.

A stage is a plain function `f(folder, **inputs)` that writes files into `folder`. Its results live in
runs/<profile>/<module>.<function>/<key>/, where the key hashes the inputs and the code the function depends on.
"""

import ast
import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from thesis_lib import paths

PLUMBING = {"thesis_lib.runs", "thesis_lib.paths"}  # they move results about, they cannot change them


def cached(
    function: Callable,
    *,
    profile: str,
    together: bool = False,
    shared: bool = False,
    also: Sequence[str] = (),
    **inputs,
) -> Path:
    """The folder holding what `function(folder, **inputs)` wrote, computed now if it is not there yet.

    inputs: JSON-able values or Paths, nested in lists and dicts as well. A Path that came from `cached` counts by its
    own stage and key, so that a changed upstream recomputes; any other by the names, sizes and times of its files.
    The function works in `<key>.partial/`, which survives a kill or an error: what it finds there of its own
    (a checkpoint) is where it should go on. A second process that wants the same result waits for the first; with
    `shared` it calls the function as well, on the same folder, and the function sees to it that they share the work.
    The result is there once all of them have returned.

    Under torchrun the first process computes and the others wait; with `together` the function runs in all of them.
    also: modules whose code counts besides what the function's module imports, for one that it finds by name.
    """
    stage = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
    team = _team()
    canonical = _canonical(inputs, stage) if team is None else team.on_first(lambda: _canonical(inputs, stage))
    described, code = json.loads(canonical), "\n".join(fingerprint(module) for module in (function.__module__, *also))
    key = hashlib.sha256(f"{canonical}\n{code}".encode()).hexdigest()[:16]
    folder = paths.runs(profile) / stage / key
    record = {"stage": stage, "inputs": described, "code": code}
    if team is None:
        if not folder.is_dir():
            _compute(function, folder, inputs, record, shared)
    elif not together:
        team.on_first(lambda: folder.is_dir() or _compute(function, folder, inputs, record, shared))
    elif not team.on_first(folder.is_dir):
        if team.rank() == 0:
            _compute(function, folder, inputs, record, False, team.on_first)
        elif not team.on_first(folder.is_dir):
            function(folder.with_suffix(".partial"), **inputs)
        team.wait()
    return folder


def _compute(function, folder, inputs, record, shared, tell=lambda check: check()):
    """The result in `folder`; tell: takes the last check whether it is there, made when no other computes it."""
    label = f"{record['stage']} {folder.name[:6]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder.with_suffix(".lock"), label, shared) as (lock, alone):
        if tell(folder.is_dir):  # another process computed it while this one waited
            return
        partial = folder.with_suffix(".partial")
        how = "joins another process" if not alone else "goes on" if partial.is_dir() else "starts"
        print(f"{label}  {how}", flush=True)
        partial.mkdir(exist_ok=True)
        start = time.perf_counter()
        try:
            function(partial, **inputs)
            if shared:
                fcntl.flock(lock, fcntl.LOCK_EX)  # the last one out of the folder is the first to get this
                if folder.is_dir():
                    return
            text = json.dumps(record | {"seconds": time.perf_counter() - start}, indent=1)
            atomic_save(partial / "inputs.json", lambda file: file.write(text.encode()))
        except BaseException as error:
            full = getattr(error, "errno", None) == errno.ENOSPC or shutil.disk_usage(partial).free < 2**20
            why = "the disk is full" if full else type(error).__name__
            print(f"{label}  stopped ({why}); the next run goes on from {paths.short(partial)}", flush=True)
            raise
        partial.rename(folder)
        print(f"{label}  done  {time.perf_counter() - start:.1f} s", flush=True)


def _team():
    """thesis_lib.training.distributed where this process has joined others through it, else None."""
    distributed = sys.modules.get("thesis_lib.training.distributed")
    return distributed if distributed and distributed.world_size() > 1 else None


def atomic_save(path: Path, writer: Callable) -> None:
    """Write a file so that a kill leaves the old one or the new one, never half: `writer(open binary file)`."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            writer(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def fingerprint(module: str) -> str:
    """Hash of the code of `module` and of what it imports from its package, in functions and indirectly as well.

    Comments, docstrings and layout do not count. Found by reading the sources: nothing is imported.
    """
    if module not in sys.modules or getattr(sys.modules[module], "__file__", None) is None:
        raise ValueError(f"a cached function must live in a module file, not in {module}")
    root = Path(sys.modules[module.partition(".")[0]].__file__).parent
    seen, waiting = {}, [module]
    while waiting:
        name = waiting.pop()
        file = _source(root, name)
        if name in seen or name in PLUMBING or file is None:
            continue
        seen[name], imported = _read(file, name, file.stat().st_mtime_ns)
        waiting += imported + [name.rpartition(".")[0] or name]
    return hashlib.sha256(json.dumps(sorted(seen.items())).encode()).hexdigest()


def _source(root: Path, module: str) -> Path | None:
    """The file of `module` in the package whose folder is `root`; a flat module is a package of its own."""
    parts = module.split(".")[1:]
    if module.partition(".")[0] != root.name:
        flat = root / f"{module}.py"
        return flat if flat.is_file() else None
    stem = root.joinpath(*parts)
    return next((file for file in (stem / "__init__.py", stem.with_suffix(".py")) if file.is_file()), None)


@cache
def _read(file: Path, module: str, changed: int) -> tuple[str, list[str]]:
    """Hash of a source without comments and docstrings, and the names that it may import from its own package."""
    tree = ast.parse(file.read_text("utf-8"))
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    imported = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join(parents + ([node.module] if node.module else []))
            imported += [base] + [f"{base}.{alias.name}" for alias in node.names]  # a name may be a submodule
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node):
            node.body = node.body[1:]
    root = module.partition(".")[0]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), [n for n in imported if n.partition(".")[0] == root]


def _canonical(inputs: dict, stage: str) -> str:
    def identity(value):
        if isinstance(value, Path):
            return _identity(value)
        raise ValueError(f"{stage}: input {value!r}: expected a JSON-able value or a Path, got {type(value).__name__}")

    return json.dumps(inputs, sort_keys=True, default=identity)


def _identity(path: Path) -> str:
    if path.is_relative_to(paths.RUNS):
        return "/".join(path.relative_to(paths.RUNS).parts[1:])  # stage/key, whatever the profile
    return _outside(path.resolve())


@cache
def _outside(path: Path) -> str:
    """A path that no stage made, by the names, sizes and times of its files; read once a process."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    listing = "\n".join(f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)
    return f"{path}#{hashlib.sha256(listing.encode()).hexdigest()[:16]}"


@contextmanager
def _lock(path: Path, label: str, shared: bool):
    """(the locked file, whether no other process had it); shared: with others that ask so too."""
    alone = True
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            alone = False
            if not shared:
                print(f"{label}  waits: another process computes it", flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
        if shared:
            fcntl.flock(file, fcntl.LOCK_SH)
        yield file, alone
