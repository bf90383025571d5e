"""Read a Dockerfile into its stages, as far as our tests ask; what a build makes of them is `make image`'s business."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(slots=True)
class Stage:
    """One stage: what it starts from, and its instructions as (word, rest)."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        """Give the rest of every such instruction, in order."""
        return [rest for found, rest in self.instructions if found == word]

    def environment(self) -> dict[str, str]:
        """Give what ENV sets."""
        return dict(part.split("=", 1) for rest in self.all("ENV") for part in shlex.split(rest))

    def labels(self) -> dict[str, str]:
        """Give what LABEL sets."""
        return dict(part.split("=", 1) for rest in self.all("LABEL") for part in shlex.split(rest))

    def exec_form(self, word: str) -> list[str]:
        """Give an instruction in its exec form; the shell form is no JSON and raises."""
        (rest,) = self.all(word)
        words: list[str] = json.loads(rest)
        return words

    def copies(self) -> list[tuple[str | None, list[str], str]]:
        """Give (stage, sources, target) of each COPY; the stage is None for the build's context."""
        found = []
        for rest in self.all("COPY"):
            words = shlex.split(rest)
            stage = next((word.removeprefix("--from=") for word in words if word.startswith("--from=")), None)
            *sources, target = [word for word in words if not word.startswith("--")]
            found.append((stage, sources, target))
        return found


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """The arguments before the first stage, and the stages in order."""

    arguments: dict[str, str]
    stages: dict[str, Stage]

    def behind(self, name: str) -> set[str]:
        """Give a stage and all that it takes anything from."""
        found: set[str] = set()
        wanted = [name]
        while wanted:
            stage = self.stages.get(wanted.pop())
            if stage is not None and stage.name not in found:
                found.add(stage.name)
                wanted += [stage.base, *(source for source, _, _ in stage.copies() if source)]
        return found


def read(path: Path) -> Dockerfile:
    """Read a file whose stages all have names."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stages.append(Stage(name, base))
        elif word and stages:
            stages[-1].instructions.append((word, rest.strip()))
        elif word == "ARG":
            name, _, default = rest.partition("=")
            arguments[name] = default
    return Dockerfile(arguments, {stage.name: stage for stage in stages})
