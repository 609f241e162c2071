"""The loop around a toy method: resumption, failures, validation; and a real method once."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_hccp import assert_trees_close, assert_trees_equal, tiny
from toy import CONFIG, Hyper, Toy, members, run

from hccp_jax.errors import Stopped, UserError
from hccp_jax.methods.hccp import HyperConfig
from hccp_jax.training import program
from hccp_jax.training.checkpoints import Checkpoints, to_host
from hccp_jax.training.config import Member, TrainConfig
from hccp_jax.training.loop import train
from hccp_jax.training.parallel import wrap
from hccp_jax.training.program import Placement
from hccp_jax.training.state import initial_state

# a read that fails leaves others behind, whose results find their event loop closed
pytestmark = pytest.mark.filterwarnings(r"ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning")

PAIR = ((0, Hyper()), (1, Hyper(learning_rate=0.02, crowd=0.1)))


class KilledError(Exception):
    """Stands for a kill."""


def kill_at(step):
    def report(now, _):
        if now == step:
            raise KilledError

    return report


def logs(who):
    return [(member.directory / "metrics.jsonl").read_bytes() for member in who]


def steps_kept(member):
    book = Checkpoints(member.directory / "checkpoints")
    try:
        return book.steps
    finally:
        book.close()


def load(member, step, like):
    book = Checkpoints(member.directory / "checkpoints")
    try:
        return book.load(step, like)
    finally:
        book.close()


def of(trained, index=0):
    return jax.tree.map(lambda leaf: leaf[index], to_host(trained.states))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A pair of members trained without interruption."""
    who = members(tmp_path_factory.mktemp("straight"), *PAIR)
    trained = run(Toy(), who)
    return trained, logs(who), who


def assert_same_run(trained, who, straight):
    expected, expected_logs, _ = straight
    assert_trees_equal(to_host(trained.states), to_host(expected.states))
    assert trained.steps == expected.steps
    assert logs(who) == expected_logs


def test_training_learns_logs_and_keeps_the_last_two(straight):
    trained, (first, second), who = straight
    lines = [json.loads(line) for line in first.decode().splitlines()]
    assert [line["step"] for line in lines] == list(range(5, 45, 5))
    assert set(lines[0]) == {"step", "loss", "gradient_norm", "fit", "crowd"}
    assert lines[-1]["fit"] < 0.5 * lines[0]["fit"]
    assert first != second
    assert trained.steps == [40, 40]
    np.testing.assert_array_equal(trained.states.step, [40, 40])
    for index, member in enumerate(who):
        assert steps_kept(member) == [30, 40]
        assert_trees_equal(load(member, 40, state_like()), of(trained, index))


@pytest.mark.parametrize("step", [5, 15, 40])
def test_a_stopped_and_resumed_run_is_the_straight_run(tmp_path, straight, step):
    who = members(tmp_path, *PAIR)
    with pytest.raises(KilledError):
        run(Toy(), who, report=kill_at(step))
    again = Toy()
    trained = run(again, who)
    assert_same_run(trained, who, straight)
    resumed = (step - 1) // 10 * 10  # a checkpoint is written after the report of its step
    assert [first for _, first, _, _ in again.asked[1:]] == list(range(resumed, 40, 5))


def test_a_finished_run_trains_no_more(tmp_path, straight):
    who = members(tmp_path, *PAIR)
    run(Toy(), who)
    trained = run(Toy(), who, report=kill_at(5))
    assert_same_run(trained, who, straight)


def test_several_stops(tmp_path, straight):
    who = members(tmp_path, *PAIR)
    for step in (15, 25, 35):
        with pytest.raises(KilledError):
            run(Toy(), who, report=kill_at(step))
    assert_same_run(run(Toy(), who), who, straight)


def test_a_killed_process_resumes(tmp_path):
    """Kill -9 in the middle of training, as the shell would."""

    def program(directory):
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, str(Path(__file__).parent / "toy.py"), str(directory)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    who = members(tmp_path / "straight", PAIR[0])
    expected = run(Toy(), who)
    killed = program(tmp_path / "killed")
    for line in killed.stdout:
        if int(line) == 25:
            killed.send_signal(signal.SIGKILL)
            break
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    again = program(tmp_path / "killed")
    said, errors = again.communicate(timeout=120)
    assert errors == ""
    done = said.split()
    assert done[-1] == "done"
    assert int(done[0]) in (15, 25)  # the last save may not have been finished
    late = members(tmp_path / "killed", PAIR[0])
    assert logs(late) == logs(who)
    assert_trees_equal(load(late[0], 40, state_like()), of(expected))


def damage(path, how):
    """Hurt every file of a checkpoint, those of its arrays only, or a single byte of its largest array."""
    if how == "byte":
        file = max((f for f in path.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0x10
        file.write_bytes(content)
        return
    for file in sorted(path.rglob("*")):
        if file.is_file() and (how != "bytes" or file.parent == path / "state" / "d"):
            content = file.read_bytes()
            if how == "bytes":
                content = bytes(byte ^ 0xFF if i % 7 == 3 else byte for i, byte in enumerate(content))
            file.write_bytes(content if how == "bytes" else content[: len(content) // 2])


@pytest.fixture
def settled():
    """Reads that Orbax gave up on come to an end before the next test."""
    yield
    time.sleep(0.5)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("how", ["bytes", "cut", "byte"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, straight, how):
    who = members(tmp_path, *PAIR)
    with pytest.raises(KilledError):
        run(Toy(), who, report=kill_at(35))
    assert steps_kept(who[0]) == [20, 30]
    damage(who[1].directory / "checkpoints" / "30", how)
    warnings = []
    trained = run(Toy(), who, warn=warnings.append)
    assert_same_run(trained, who, straight)
    assert len(warnings) == 1
    assert "checkpoints/30: cannot be read" in warnings[0]
    assert warnings[0].endswith("; trying an earlier one")
    assert "\n" not in warnings[0]
    for mine, theirs in zip(who, straight[2], strict=True):  # written again
        assert steps_kept(mine) == [30, 40]
        assert_trees_equal(load(mine, 30, state_like()), load(theirs, 30, state_like()))


@pytest.fixture
def small_disk(tmp_path):
    """A file system with room for one checkpoint; (directory, resize)."""
    where = tmp_path / "disk"
    where.mkdir()

    def mount(*words):
        return subprocess.run(["mount", *words, str(where)], capture_output=True, check=False).returncode == 0

    if not (sys.platform == "linux" and mount("-t", "tmpfs", "-o", "size=100k", "tmpfs")):
        pytest.skip("needs the right to mount a tmpfs")
    yield where, lambda size: mount("-o", f"remount,size={size}")
    subprocess.run(["umount", "-l", str(where)], check=True)


@pytest.mark.usefixtures("settled")
def test_a_full_disk_is_told_in_a_line_and_nothing_is_lost(small_disk, straight):
    where, resize = small_disk
    who = members(where, *PAIR)
    with pytest.raises(UserError, match=r"^checkpoints .*: cannot be written \(No space left on device\)$"):
        run(Toy(), who)
    assert resize("20m")
    asked = Toy()
    assert_same_run(run(asked, who), who, straight)


@pytest.mark.usefixtures("settled")
def test_without_a_checkpoint_that_can_be_read_nothing_is_started(tmp_path):
    who = members(tmp_path, *PAIR)
    with pytest.raises(KilledError):
        run(Toy(), who, report=kill_at(35))
    for step in ("20", "30"):
        damage(who[0].directory / "checkpoints" / step, "bytes")
    before, warnings = logs(who), []
    with pytest.raises(UserError, match=r"checkpoints in .*/0: none can be read; remove the directory") as error:
        run(Toy(), who, warn=warnings.append)
    assert "\n" not in str(error.value)
    assert len(warnings) == 2
    assert logs(who) == before


def test_members_resume_from_the_newest_step_that_all_have(tmp_path, straight):
    who = members(tmp_path, *PAIR)
    with pytest.raises(KilledError):
        run(Toy(), who, report=kill_at(25))  # both have 10 and 20
    with pytest.raises(KilledError):
        run(Toy(), who[:1], report=kill_at(35))  # the first goes on alone and has 20 and 30
    assert [steps_kept(member) for member in who] == [[20, 30], [10, 20]]
    again = Toy()
    assert_same_run(run(again, who), who, straight)
    assert again.asked[1][1] == 20


def test_a_new_member_makes_all_begin_again(tmp_path, straight):
    who = members(tmp_path, *PAIR)
    with pytest.raises(KilledError):
        run(Toy(), who[:1], report=kill_at(25))
    assert_same_run(run(Toy(), who), who, straight)
    assert [steps_kept(member) for member in who] == [[30, 40], [30, 40]]


def state_like():
    """A state of the toy in the form in which it is saved."""
    toy = Toy()
    state = initial_state(toy.method, jax.random.key(0), jax.tree.map(lambda x: x[:1], toy.batch(0, 0)))
    return to_host(state)


def finite(tree):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


def test_a_loss_that_is_not_finite_stops_the_run_with_the_state_before_it(tmp_path):
    who = members(tmp_path, PAIR[0])
    reported = []
    message = (
        r"^member 0: loss is not finite at step 14 \(terms: fit, gradient_norm\); the state before it is kept; "
        r"try a smaller hyper.learning_rate$"
    )
    with pytest.raises(UserError, match=message):
        run(Toy(broken_step=13), who, report=lambda step, _: reported.append(step))
    assert reported == [5, 10]
    assert [json.loads(line)["step"] for line in logs(who)[0].splitlines()] == [5, 10]
    assert steps_kept(who[0]) == [10, 13]
    kept = load(who[0], 13, state_like())
    assert finite(kept)
    assert kept["step"] == 13
    assert not kept["alive"]
    # the same command again ends the same way
    with pytest.raises(UserError, match="at step 14 "):
        run(Toy(broken_step=13), who)
    assert steps_kept(who[0]) == [10, 13]
    assert_trees_equal(load(who[0], 13, state_like()), kept)


@pytest.mark.parametrize("broken", [13, 15, 30])
def test_a_repaired_run_goes_on_and_is_the_straight_run(tmp_path, straight, broken):
    """Broken inside a chunk, between two, and right after a checkpoint."""
    who = members(tmp_path, *PAIR)
    with pytest.raises(UserError, match=f"member 0: loss is not finite at step {broken + 1} "):
        run(Toy(broken_step=broken), who)
    if broken == 30:
        for mine, theirs in zip(who, straight[2], strict=True):
            assert_trees_equal(load(mine, 30, state_like()), load(theirs, 30, state_like()))
    assert_same_run(run(Toy(), who), who, straight)


BAD = (0, Hyper(learning_rate=1e30))


def test_a_member_that_diverges_is_frozen_and_named_and_the_others_go_on(tmp_path, straight):
    who, lines = members(tmp_path, PAIR[0], BAD, PAIR[1]), []
    trained = run(Toy(), who, warn=lines.append)
    assert list(trained.failed) == [1]
    (line,) = lines
    assert re.fullmatch(
        r"member 1: loss is not finite at step \d \(terms: .+\); it stays there, the others go on", line
    )
    assert finite(trained.states.parameters)
    # the others are what they are alone
    assert_same_run(select(trained, [0, 2]), [who[0], who[2]], straight)
    stopped = json.loads(logs([who[1]])[0].splitlines()[-1])["step"] if logs([who[1]])[0] else 0
    assert stopped < 10


def select(trained, places):
    """The part of a result that is of some members."""
    return dataclasses.replace(
        trained,
        states=jax.tree.map(lambda leaf: leaf[np.array(places)], trained.states),
        steps=[trained.steps[place] for place in places],
        failed={},
    )


def test_a_frozen_member_stays_frozen_over_a_stop(tmp_path, straight):
    who, lines = members(tmp_path, PAIR[0], BAD, PAIR[1]), []
    with pytest.raises(Stopped, match=r"^stopped at step 20; everything is saved"):
        run(Toy(), who, warn=lines.append, stop=stop_at(20))
    assert [steps_kept(member)[-1] for member in who] == [20, 20, 20]
    asked = Toy()
    trained = run(asked, who, warn=lines.append)
    assert min(first for _, first, *_ in asked.asked[1:]) == 20
    assert list(trained.failed) == [1]
    assert [line.startswith("member 1: loss ") for line in lines] == [True, True]
    assert_same_run(select(trained, [0, 2]), [who[0], who[2]], straight)


def test_a_member_that_was_frozen_and_is_alone_is_refused(tmp_path):
    who = members(tmp_path, PAIR[0], BAD)
    run(Toy(), who, warn=lambda _: None)
    with pytest.raises(UserError, match=r"^member 1: loss was not finite at step \d; .* try a smaller"):
        run(Toy(), who[1:])


def stop_at(step, seen=None):
    """A `stop` that says True after so many steps."""
    chunks = iter(range(CONFIG.chunk, 1000, CONFIG.chunk))
    return lambda: next(chunks) >= step


def test_a_run_that_is_asked_to_stop_saves_and_goes_on_as_if_nothing_had_been(tmp_path, straight):
    who = members(tmp_path, *PAIR)
    with pytest.raises(Stopped, match=r"^stopped at step 15; everything is saved: run the command again to go on$"):
        run(Toy(), who, stop=stop_at(15))
    assert [steps_kept(member)[-1] for member in who] == [15, 15]
    assert_same_run(run(Toy(), who), who, straight)


def test_a_stop_that_comes_with_the_last_step_finds_the_work_done(tmp_path, straight):
    who = members(tmp_path, *PAIR)
    assert_same_run(run(Toy(), who, stop=stop_at(40)), who, straight)


def test_a_broken_catalogue_is_found_at_the_first_step(tmp_path):
    who = members(tmp_path, PAIR[0])
    with pytest.raises(UserError, match=r"not finite at step 1 \(terms: crowd, fit, gradient_norm\)"):
        run(Toy(scale=float("nan")), who)
    assert steps_kept(who[0]) == [0]


SCORES = {10: (0.5, 0.7), 20: (0.8, 0.1), 30: (0.8, 0.2), 40: (0.2, 0.4)}


def by_table(seen):
    def validate(states):
        step = int(np.asarray(states.step)[0])
        seen[step] = to_host(states)
        return np.array(SCORES[step])

    return validate


@pytest.mark.parametrize("stop", [None, 15, 35])
def test_validation_keeps_the_best_step_of_each_member(tmp_path, stop):
    config = dataclasses.replace(CONFIG, validate_every=10, checkpoint_every=100)
    who = members(tmp_path, *PAIR)
    seen = {}
    if stop:
        with pytest.raises(KilledError):
            run(Toy(), who, config, report=kill_at(stop), validate=by_table(seen))
    trained = run(Toy(), who, config, validate=by_table(seen))
    assert sorted(seen) == [10, 20, 30, 40]
    assert trained.steps == [30, 10]  # the later one among equals
    np.testing.assert_array_equal(trained.states.step, [30, 10])
    for index, step in enumerate(trained.steps):
        assert_trees_equal(of(trained, index), jax.tree.map(lambda leaf, i=index: leaf[i], seen[step]))


def test_the_last_step_is_validated_even_if_it_is_not_due(tmp_path):
    config = dataclasses.replace(CONFIG, validate_every=25)
    seen = []

    def validate(states):
        seen.append(int(states.step[0]))
        return -np.asarray(states.step, float)

    assert run(Toy(), members(tmp_path, PAIR[0]), config, validate=validate).steps == [25]
    assert seen == [25, 40]


def test_without_validation_the_last_step_is_kept(tmp_path):
    def validate(states):
        raise AssertionError

    assert run(Toy(), members(tmp_path, PAIR[0]), validate=validate).steps == [40]


def test_batches_are_made_ahead_in_order(tmp_path):
    toy = Toy()
    ahead = threading.Event()
    chunk = toy.chunk

    def watched(seeds, first, steps):
        if first == 5:
            ahead.set()
        return chunk(seeds, first, steps)

    toy.chunk = watched

    def report(step, _):
        if step == 5:  # the next chunk is being made while this one is reported
            assert ahead.wait(10)

    run(toy, members(tmp_path, *PAIR), report=report)
    sample, *asked = toy.asked
    assert sample[:3] == ((0, 1), 0, 5)  # for its shapes; a chunk like all others
    assert [(seeds, first, steps) for seeds, first, steps, _ in asked] == [((0, 1), s, 5) for s in range(0, 40, 5)]
    assert all(thread is not threading.main_thread() for *_, thread in asked)


def test_with_several_data_devices_nothing_runs_beside_the_collectives(tmp_path):
    toy = Toy()
    run(toy, members(tmp_path, PAIR[0]), placement=Placement("emulated", 2))
    assert all(thread is threading.main_thread() for *_, thread in toy.asked)


@pytest.mark.parametrize("placement", [Placement(), Placement("mesh", 4, 2), Placement("pmap", 2)])
def test_all_chunks_share_one_program(tmp_path, placement):
    compiled, listening = [], [True]

    def listen(name, *_, **__):
        if listening and name == "/jax/core/compile/backend_compile_duration":
            compiled.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    toy, counts = Toy(), []
    config = dataclasses.replace(CONFIG, checkpoint_every=100)
    report = lambda *_: counts.append((len(toy.traces), len(compiled)))  # noqa: E731
    run(toy, members(tmp_path, *PAIR), config, placement, report)
    listening.clear()
    assert len(counts) == 8
    assert len(set(counts)) == 1
    assert min(counts[0]) > 0


def test_means_over_members_are_reported(tmp_path):
    who = members(tmp_path, *PAIR)
    said = {}
    run(Toy(), who, report=lambda step, values: said.update({step: values}))
    own = [[json.loads(line) for line in log.splitlines()] for log in logs(who)]
    for first, second in zip(*own, strict=True):
        values = said[first["step"]]
        assert values["loss"] == pytest.approx((first["loss"] + second["loss"]) / 2, rel=1e-6)
        assert values["requests_per_second"] > 0


@pytest.mark.parametrize(
    "placement", [Placement(), pytest.param(Placement("mesh", 1, 2), marks=pytest.mark.slow), Placement("mesh", 2, 4)]
)
def test_members_do_not_know_of_each_other(tmp_path, placement):
    """In any order, and where the members do not fill the population axis."""
    three = [(0, Hyper()), (5, Hyper(noise=0.3)), (2, Hyper(learning_rate=0.01))]
    config = dataclasses.replace(CONFIG, steps=10)
    alone = [of(run(Toy(), members(tmp_path / f"alone {i}", who), config)) for i, who in enumerate(three)]
    together = run(Toy(), members(tmp_path / "together", *three), config, placement)
    back = run(Toy(), members(tmp_path / "back", *three[::-1]), config, placement)
    assert together.states.step.shape == (3,)
    for index, expected in enumerate(alone):
        assert_trees_close(of(together, index), expected, 1e-6)
        assert_trees_close(of(back, 2 - index), expected, 1e-6)
    assert np.abs(alone[0]["parameters"]["w"] - alone[1]["parameters"]["w"]).max() > 1e-3


@pytest.mark.parametrize(
    "placement",
    [Placement(), *(pytest.param(p, marks=pytest.mark.slow) for p in (Placement("mesh", 2, 2), Placement("pmap", 2)))],
)
def test_members_that_train_together_are_what_they_are_one_after_the_other(tmp_path, placement):
    three = [(0, Hyper()), BAD, (2, Hyper(learning_rate=0.01))]
    found = []
    for how in ("map", "vmap"):
        config = dataclasses.replace(CONFIG, steps=10, members=how)
        found.append(run(Toy(), members(tmp_path / how, *three), config, placement, warn=lambda _: None))
    assert [list(one.failed) for one in found] == [[1], [1]]
    for index in (0, 2):
        assert_trees_close(of(found[1], index), of(found[0], index), 1e-6)


def test_nothing_crosses_to_the_device_in_the_steady_loop(tmp_path, monkeypatch):
    """A catalogue from the host is placed once; one that stayed there would be moved with every chunk."""
    source = dataclasses.replace(Toy().source, catalogue={"scale": np.ones((), np.float32)})
    monkeypatch.setattr(Toy, "source", source)
    run(Toy(), members(tmp_path / "placed", PAIR[0]))
    unplaced = lambda *given: dataclasses.replace(wrap(*given), place=lambda *constants: constants)  # noqa: E731
    monkeypatch.setattr(program, "wrap", unplaced)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        run(Toy(), members(tmp_path / "not", PAIR[0]))


def test_bad_placements_are_the_users_mistake(tmp_path):
    who = members(tmp_path, PAIR[0])
    with pytest.raises(UserError, match=r"train.batch=8: expected a multiple of the 3 devices"):
        run(Toy(), who, placement=Placement("mesh", 3))
    with pytest.raises(UserError, match=r"devices=16: only 8 of cpu are there"):
        run(Toy(), who, placement=Placement("mesh", 8, 2))
    assert not who[0].directory.exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write checkpoints"):
        run(Toy(), members(tmp_path / "file", PAIR[0]))


@pytest.mark.parametrize(
    ("steps", "chunk", "size"), [(400, 25, 25), (400, 30, 25), (7, 5, 1), (10, 100, 10), (12, 5, 4), (1, 25, 1)]
)
def test_chunks_are_alike(steps, chunk, size):
    assert TrainConfig(steps=steps, chunk=chunk).chunk_steps == size


def test_what_is_due_is_due_once_in_its_interval():
    config = TrainConfig(steps=40, chunk=4)
    ends = range(4, 44, 4)
    assert [step for step in ends if config.due(step, 10)] == [12, 20, 32, 40]
    assert [step for step in ends if config.due(step, 3)] == list(ends)
    assert not any(config.due(step, 0) for step in ends)


@pytest.fixture(scope="module")
def ladder(small_world, tmp_path_factory):
    """Three members of HCCP on the stored log, trained without interruption."""
    made = tiny(small_world)
    config = TrainConfig(steps=6, batch=16, chunk=2, checkpoint_every=2)

    def trained(directory, which=(0, 1, 2), report=lambda *_: None):
        base = HyperConfig(negatives=0.0, consistency=0.0, local=0.0)
        kinds = [(0, base), (0, HyperConfig()), (1, HyperConfig(learning_rate=1e-2))]
        who = [Member(f"member {i}", kinds[i][1], kinds[i][0], directory / str(i)) for i in which]
        return train(made.method, made.source, who, config, Placement(), report, pytest.fail), who

    return trained, *trained(tmp_path_factory.mktemp("ladder"))


def test_hccp_resumes_bit_for_bit(tmp_path, ladder):
    trained, straight, who = ladder
    with pytest.raises(KilledError):
        trained(tmp_path, report=kill_at(4))
    resumed, again = trained(tmp_path)
    assert_trees_equal(to_host(resumed.states), to_host(straight.states))
    assert logs(again) == logs(who)


@pytest.mark.slow
def test_hccp_members_are_their_own_single_runs(tmp_path, ladder):
    trained, straight, _ = ladder
    alone, _ = trained(tmp_path, which=(2,))
    assert_trees_close(of(alone), of(straight, 2), 1e-6)
