"""How fast training is: against PyTorch, against runs one by one, from disk, and when nothing is left to train.

    pip install -r experiments/benchmarks/peers/requirements.txt
    python -m experiments.benchmarks.training                   a line a bar; exit code 1 if any is short
    python -m experiments.benchmarks.training --json=training.json
    python -m experiments.benchmarks.training --only=MMoE,population

Wall time with all cores for every library, so let nothing else run: the last line says how busy others kept the
machine. Rivals are interleaved in rounds, and a ratio is the median over the rounds. About ten minutes, 8 GB.
"""

from collections.abc import Callable, Sequence

from experiments.benchmarks.bars import Neighbours, Outcome, asked, exit_with, finish, line, missing, parse

Part = Callable[[int], list[Outcome]]


def parts() -> dict[str, Part]:
    """What is measured, by name; each takes the number of rounds."""
    from experiments.benchmarks import input_pipeline, one_program, relaunch, table_steps

    return {
        "two-tower by rows": table_steps.big_tables,
        "two-tower": table_steps.two_tower,
        "MMoE": table_steps.mmoe,
        "population": one_program.population,
        "input pipeline": input_pipeline.from_disk,
        "relaunch": relaunch.finished_sweep,
    }


def main(arguments: Sequence[str]) -> int:
    """Measure, print and judge; the exit code."""
    values = parse("training", arguments, 7, "parts")
    try:
        every = parts()
    except ImportError as error:
        raise missing(error) from None
    found: list[Outcome] = []
    neighbours = Neighbours()
    for name, measure in every.items():
        if asked(name, values["only"]):
            judgements = measure(values["rounds"])
            found += judgements
            print("\n".join(map(line, judgements)), flush=True)
    code = finish(found, values, "part")
    busy = neighbours.cores()
    if busy is not None:
        print(f"other processes kept {busy:.1f} cores busy meanwhile")
    return code


if __name__ == "__main__":
    exit_with(main)
