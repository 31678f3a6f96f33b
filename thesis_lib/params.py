"""Parameters of the notebooks: declared in the notebook, set by YAML, checked before anything runs.

A notebook declares them in its cell tagged `parameters`, one line each, `name: type = literal  # help`, where type is
int, float, str, bool, list or list[int | float | str]. The values of a profile are, each over the one before:
the notebook's own, params/<profile>/common.yaml, params/<profile>/<notebook>.yaml, the caller's.
A name ending in `_root` is a folder, in `_path` a file: checked to exist unless "", relative ones start at the project.
"""

import ast
import difflib
import io
import json
import re
import tokenize
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import GenericAlias, SimpleNamespace

import yaml

from thesis_lib import paths

TYPES = {"int": int, "float": float, "str": str, "bool": bool, "list": list}
TYPES |= {f"list[{item.__name__}]": list[item] for item in (int, float, str)}
COMMON = ("profile", "seed", "data_root", "howto_root", "device")  # declared by every notebook
WHERE = ("data_root", "howto_root", "device")  # of these, what is the same for all that a notebook asks for
YAML_TEXT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")  # YAML 1.1 reads 1e-4, without a point, as text


@dataclass(frozen=True)
class Parameter:
    name: str
    type: type | GenericAlias
    default: object
    help: str


def notebooks() -> list[str]:
    """Names of all notebooks of the report in reading order: numbers first, appendices after."""
    return sorted(path.stem for path in paths.NOTEBOOKS.glob("[0-9A][0-9]_*.ipynb"))


def find(text: str) -> str:
    """The notebook that `text` ("04", "4", "04_baseline", a path to it) means."""
    stem, known = Path(text).stem, notebooks()
    for name in known:
        if stem in (name, name.split("_")[0], name.split("_")[0].lstrip("0")):
            return name
    raise ValueError(f"no notebook '{text}' in {paths.NOTEBOOKS}{_nearest(stem, known)}")


def profiles(notebook: str | None = None) -> list[str]:
    """Names of the folders in params/ that hold a common.yaml; with a notebook, those with parameters for it.

    params/howto100m has those of pretraining alone.
    """
    named = sorted(path.parent.name for path in paths.PARAMS.glob("*/common.yaml"))
    if notebook is None or not declared(notebook).keys() - {*COMMON}:
        return named
    return [name for name in named if (paths.PARAMS / name / f"{notebook}.yaml").is_file()]


def declared(notebook: str) -> dict[str, Parameter]:
    """What a notebook declares, by name. Raises ValueError where a line is not `name: type = literal  # help`."""
    file = paths.NOTEBOOKS / f"{notebook}.ipynb"
    if not file.is_file():
        raise ValueError(f"no notebook '{notebook}' in {paths.NOTEBOOKS}{_nearest(notebook, notebooks())}")
    return dict(_declared(file, file.stat().st_mtime_ns))


@cache
def _declared(file: Path, changed: int) -> dict[str, Parameter]:
    """What a notebook file declares, read once: notebooks hold pictures, and every stage asks for parameters."""
    for cell in json.loads(file.read_text("utf-8"))["cells"]:
        if "parameters" in cell["metadata"].get("tags", ()):
            return _parse("".join(cell["source"]), file.name)
    raise ValueError(f"{file.name}: no cell is tagged `parameters`")


def load(notebook: str, profile: str, overrides: dict | None = None) -> SimpleNamespace:
    """The checked parameters of a notebook in a profile: the same record as in the notebook itself.

    overrides: values by name; text is read as on a command line ("3" is an int where an int is declared).
    Raises ValueError, one line: file, key, value, and what was expected.
    """
    values, origin = layered(notebook, profile, overrides)
    return SimpleNamespace(**_resolve(values, origin))


def of(notebook: str, p: SimpleNamespace) -> SimpleNamespace:
    """The record of a notebook: `p`, with all that was overridden, where it is that; else the one of its profile.

    Each notebook declares names that no other has together, so the names tell whose record it is. Data and device of
    `p` go for the other notebook too, its seed does not.
    """
    own = vars(p)
    if own.keys() == declared(notebook).keys():
        return p
    found = vars(load(notebook, p.profile))
    return SimpleNamespace(**found | {name: own[name] for name in WHERE if name in own and name in found})


def layered(notebook: str, profile: str, overrides: dict | None = None) -> tuple[dict, dict]:
    """Values by name, types checked but files not yet looked for, and by name the file that set each value."""
    own, folder = declared(notebook), paths.PARAMS / profile
    common_file, own_file = f"params/{profile}/common.yaml", f"params/{profile}/{notebook}.yaml"
    if not (folder / "common.yaml").is_file():
        raise ValueError(f"no profile '{profile}': {common_file} is missing{_nearest(profile, profiles())}")
    common = _read(folder / "common.yaml", common_file)
    if common.get("profile", profile) != profile:
        raise ValueError(f"{common_file}: profile: {common['profile']!r}: expected '{profile}', the folder's name")
    unset = [name for name in own if name not in common and name not in COMMON]
    if (
        unset and not (folder / f"{notebook}.yaml").is_file()
    ):  # or a large profile would run at the size of the defaults
        raise ValueError(f"{own_file} is missing: expected values of {', '.join(unset)}")
    everyone = own | {name: parameter for other in notebooks() for name, parameter in declared(other).items()}
    for name, value in common.items():
        coerce(value, _known(name, everyone, value, common_file), common_file)

    values = {name: parameter.default for name, parameter in own.items()}
    origin = dict.fromkeys(own, f"notebooks/{notebook}.ipynb")
    layers = {
        common_file: {name: value for name, value in (common | {"profile": profile}).items() if name in own},
        own_file: _read(folder / f"{notebook}.yaml", own_file),
        "overrides": {name: _from_text(value, own.get(name)) for name, value in (overrides or {}).items()},
    }
    for source, layer in layers.items():
        for name, value in layer.items():
            values[name] = coerce(value, _known(name, own, value, source), source)
            origin[name] = source
    return values, origin


def from_cell(namespace: dict) -> SimpleNamespace:
    """The record of the parameters that a notebook's typed lines declared: call with `globals()` in the next cell.

    Papermill rebinds the values as YAML gave them, so they are checked here once more.
    """
    values = {}
    for name, annotation in namespace.get("__annotations__", {}).items():
        if name in namespace and (annotation in TYPES.values()):
            parameter = Parameter(name, annotation, None, "")
            values[name] = coerce(namespace[name], parameter, "parameters cell")
    if not values:
        raise ValueError("parameters cell: no line reads `name: type = literal`; run the parameters cell first")
    return SimpleNamespace(**_resolve(values, dict.fromkeys(values, "parameters cell")))


def coerce(value: object, parameter: Parameter, source: str) -> object:
    """`value` as the declared type. Ints pass as floats; nothing else is converted."""
    kind = parameter.type
    if kind is float and type(value) is int:
        return float(value)
    if isinstance(kind, GenericAlias) and isinstance(value, list | tuple):
        item = Parameter(parameter.name, kind.__args__[0], None, "")
        return [coerce(element, item, source) for element in value]
    if kind is list and isinstance(value, list | tuple):
        return list(value)
    if type(value) is kind:
        return value
    hint = ""
    if kind is float and isinstance(value, str) and YAML_TEXT.fullmatch(value):
        hint = f" (YAML reads {value} as text: write {float(value):.1e})"
    elif isinstance(value, str) and kind is not str and type(_from_text(value, parameter)) is kind:
        hint = " without quotes"
    elif kind is str:
        hint = " in quotes (YAML reads yes, no, on, off as true and false)" if isinstance(value, bool) else " in quotes"
    name = next(name for name, known in TYPES.items() if known == kind)
    raise ValueError(f"{source}: {parameter.name}: {value!r}: expected {name}{hint}, got {type(value).__name__}")


def _parse(source: str, file: str) -> dict[str, Parameter]:
    parameters = {}
    for number, line in enumerate(source.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            (statement,) = ast.parse(line).body
            name, kind = statement.target.id, TYPES[ast.unparse(statement.annotation)]
            value = ast.literal_eval(statement.value)
            tokens = tokenize.generate_tokens(io.StringIO(line).readline)
            (comment,) = [token.string for token in tokens if token.type == tokenize.COMMENT]
        except (SyntaxError, ValueError, AttributeError, KeyError, TypeError, tokenize.TokenError):
            expected = f"expected `name: type = literal  # help` with type one of {', '.join(TYPES)}"
            raise ValueError(f"{file}: parameters cell, line {number}: {line.strip()!r}: {expected}") from None
        parameter = Parameter(name, kind, value, comment.lstrip("# ").strip())
        coerce(value, parameter, f"{file}: parameters cell, line {number}")
        parameters[name] = parameter
    return parameters


def _read(file: Path, source: str) -> dict:
    try:
        values = yaml.safe_load(file.read_text("utf-8")) if file.is_file() else None
    except yaml.YAMLError as error:
        raise ValueError(f"{source}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict | None):
        raise ValueError(f"{source}: {values!r}: expected lines `name: value`")
    for name, value in (values or {}).items():
        if not isinstance(name, str):
            hint = "YAML reads on, off, yes, no as true and false: quote the name"
            raise ValueError(f"{source}: {name}: {value!r}: expected a parameter's name ({hint})")
    return values or {}


def _from_text(value: object, parameter: Parameter | None) -> object:
    if not isinstance(value, str) or parameter is None or parameter.type is str:
        return value
    if parameter.type is float and YAML_TEXT.fullmatch(value):
        return float(value)
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def _known(name: str, known: dict[str, Parameter], value: object, source: str) -> Parameter:
    if name in known:
        return known[name]
    raise ValueError(f"{source}: {name}: {value!r}: no such parameter{_nearest(name, known)}")


def _nearest(name: str, known) -> str:
    near = difflib.get_close_matches(name, list(known), 1, 0.5)
    return f", did you mean '{near[0]}'?" if near else f"; there are {', '.join(known) or 'none'}"


def _resolve(values: dict, origin: dict) -> dict:
    for name, value in values.items():
        wanted = {"root": "folder", "path": "file"}.get(name.rpartition("_")[2])
        if wanted and value:
            path = paths.ROOT / Path(value).expanduser()
            if not (path.is_dir() if wanted == "folder" else path.is_file()):
                raise ValueError(f"{origin[name]}: {name}: '{value}': expected an existing {wanted}")
            values = values | {name: str(path)}
    return values
