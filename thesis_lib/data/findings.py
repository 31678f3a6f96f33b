"""What a check of a data folder found, and how it is printed: a tree of what was expected and what is there."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

LEVELS = ("ok", "odd", "missing", "unusable")


@dataclass(frozen=True)
class Finding:
    """One line of the report: level (ok, odd, missing or unusable), the part of the data set, what, in which files."""

    level: str
    part: str
    message: str
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = ", ".join(self.names[:3]) + (f" and {len(self.names) - 3} more" if len(self.names) > 3 else "")
        return f"{self.level:<9}{self.message}{': ' + shown if shown else ''}"


@dataclass
class Findings:
    """What a check found under root, part by part of what it expects there. str() is the printable tree."""

    root: Path
    layout: str = ""
    expected: dict[str, str] = field(default_factory=dict)
    found: list[Finding] = field(default_factory=list)
    downloads: list[str] = field(default_factory=list)

    def add(self, level: str, part: str, message: str, names: Iterable[str] = ()) -> None:
        self.found.append(Finding(level, part, message, tuple(names)))

    def group(self, level: str, part: str, messages: Mapping[str, str]) -> None:
        """messages: file -> what is true of it. Says each message once, with the names of all its files."""
        names = defaultdict(list)
        for name, message in messages.items():
            names[message].append(name)
        for message, of in names.items():
            self.add(level, part, message, of)

    def of(self, level: str) -> list[Finding]:
        return [finding for finding in self.found if finding.level == level]

    @property
    def usable(self) -> bool:
        return not self.of("unusable")

    def __str__(self) -> str:
        parts = list(dict.fromkeys([*self.expected, *(finding.part for finding in self.found)]))
        width = max(map(len, parts), default=0)
        lines = [f"{self.root}   {self.layout}".rstrip()]
        for part in parts:
            last = part == parts[-1]
            lines.append(f"{'└──' if last else '├──'} {part:<{width}}   {self.expected.get(part, '')}".rstrip())
            lines += [f"{'   ' if last else '│  '}    {f}" for f in self.found if f.part == part]
        counts = ", ".join(f"{len(self.of(level))} {level}" for level in LEVELS[1:])
        lines += ["", f"{'Usable' if self.usable else 'NOT USABLE'} ({counts})"]
        lines += [f"Unusable: {finding.part}: {finding.message}" for finding in self.of("unusable")]
        lines += [f"To download: {source}" for source in dict.fromkeys(self.downloads)]
        return "\n".join(lines)


def check_text(findings: Findings, part: str, paths: Iterable[Path], endings: bool = True) -> None:
    """What other readers of text files stumble over; ours do not."""
    tests: dict[str, Callable[[bytes], bool]] = {
        "CRLF line ends": lambda data: b"\r\n" in data,
        "byte order mark": lambda data: data.startswith(b"\xef\xbb\xbf"),
        "'#' lines": lambda data: data.startswith(b"#") or b"\n#" in data,
    }
    if endings:
        tests["no newline at the end, official readers lose the last line"] = lambda data: data[-1:] not in (b"", b"\n")
    odd = defaultdict(list)
    for path in paths:
        data = path.read_bytes()
        for what, test in tests.items():
            if test(data):
                odd[what].append(path.name)
    for what, names in odd.items():
        findings.add("odd", part, what, names)
