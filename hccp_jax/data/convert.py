"""From the files of a public data set, exactly as published, to a store that training reads.

    python -m hccp_jax.data.convert --source=kuairand --input=DIR --output=STORE
    python -m hccp_jax.data.convert --source=kuairand --help              the settings of its protocol

A conversion that is stopped goes on where it was with the same command. Input that is not as published is refused in
one line that names file, row and column, and leaves nothing. Exit codes: 0 done; 2 a mistake in the command or the
data; 130 stopped.
"""

import dataclasses
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hccp_jax import __version__, config
from hccp_jax.data import describe, guards
from hccp_jax.data.sources.dataset import Facts
from hccp_jax.data.sources.registry import SOURCES, source
from hccp_jax.data.store import Store
from hccp_jax.data.store_writer import StoreWriter, WriteError
from hccp_jax.errors import UserError

Say = Callable[[str], None]


def convert(name: str, folder: Path, output: Path, changes: dict[str, Any], say: Say = print) -> Store:
    """Convert a data set, check it and describe it.

    Args:
        name: of the source.
        folder: with the published files.
        output: the store; nothing may be there.
        changes: dotted name -> value, of the source's protocol.
        say: shows a line of progress.

    Raises:
        UserError: one line, if anything is not as it should be; what is stopped otherwise can go on.
    """
    dataset = source(name)
    protocol = config.override(dataset.config(), changes)
    if not folder.is_dir():
        raise UserError(f"input={folder}: expected the folder with the files of {dataset.title}")
    told = config.to_json(protocol)
    identity = {"source": name, "version": __version__, "protocol": told, "files": _files(folder, output)}
    with StoreWriter(output, identity) as writer:
        if writer.resumed:
            say(f"going on: {writer.resumed} shards are written")
        try:
            facts = dataset.convert(folder, protocol, writer, say)
            lines = [*(_checked(writer, facts) if facts.spec is not None else []), *facts.lines]
        except WriteError:
            raise
        except UserError:
            writer.discard()
            raise
        given = {"source": name, "input": folder, "output": output, **changes}
        options = [f"--{key}={value}" for key, value in given.items()]
        return writer.finish(
            {
                **{key: value for key, value in vars(facts).items() if key not in ("spec", "lines")},
                "source": name,
                "title": dataset.title,
                "licence": dataset.licence,
                "spec": None if facts.spec is None else dataclasses.asdict(facts.spec),
                "lines": lines,
                "protocol": told,
                "command": shlex.join(["python", "-m", "hccp_jax.data.convert", *options]),
            }
        )


def _files(folder: Path, output: Path) -> dict[str, list[int]]:
    """Size and time of every file of the input; an output that is being written among them is none of it."""
    partial = output.with_name(f"{output.name}.partial").resolve()
    found = {}
    for place, _, names in os.walk(folder, followlinks=True):
        inside = Path(place).resolve().is_relative_to(partial)
        for path in (Path(place, name) for name in names if not inside):
            if path.is_file():
                found[path.relative_to(folder).as_posix()] = [path.stat().st_size, path.stat().st_mtime_ns]
    return dict(sorted(found.items()))


def _checked(writer: StoreWriter, facts: Facts) -> list[str]:
    """What the tables of requests hold, in lines, if no guard trips."""
    parts = {part: writer.opened(part) for part in guards.PARTS if part in writer.tables}
    known = guards.check(parts, facts.vocabulary, facts.timed, facts.zone or 0)
    counted = [line for part, table in parts.items() for line in describe.measured(part, table, facts.zone)]
    return [*counted, *known]


def _help(name: str) -> str:
    if not name:
        return f"{__doc__}\n--source: {', '.join(SOURCES)}"
    dataset = source(name)
    lines = [f"{dataset.title}. {dataset.papers}", f"files: {', '.join(file.name for file in dataset.files)}", ""]
    for key, hint, item in config.leaves(dataset.config):
        word = getattr(hint, "__name__", str(hint))
        lines.append(f"  --{key}: {item.metadata.get('help', '')} ({word}) [{item.default}]")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Run the command; the exit code."""
    try:
        given = config.named(arguments)
        if "help" in given:
            print(_help(given.get("source", "")))
            return 0
        for key in ("source", "input", "output"):
            if not given.get(key):
                raise UserError(f"{key}='': expected --source=NAME --input=DIR --output=STORE")
        name, folder, output = (given.pop(key) for key in ("source", "input", "output"))
        store = convert(name, Path(folder), Path(output), given, lambda line: print(line, flush=True))
        print(describe.text(store.manifest))
        print(f"store: {output}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
