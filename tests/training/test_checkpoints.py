import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_hccp import assert_trees_equal

from hccp_jax.errors import UserError
from hccp_jax.training.checkpoints import METRIC, Checkpoints, to_host, to_state
from hccp_jax.training.state import TrainState, optimizer


def state(step=0, seed=0):
    rng = np.random.default_rng(seed)
    parameters = {"table": jnp.asarray(rng.normal(size=(5, 3)), jnp.float32), "bias": jnp.float32(rng.normal())}
    moments = jax.tree.map(lambda x: x + 1, optimizer(0.1).init(parameters))
    return TrainState(jnp.int32(step), parameters, moments, jax.random.key(seed + 7), jnp.asarray(step % 2 == 0))


@pytest.fixture
def book(tmp_path):
    book = Checkpoints(tmp_path / "checkpoints")
    yield book
    book.close()


def reopened(book):
    book.close()
    return Checkpoints(book.directory)


def like(tree):
    return jax.tree.map(np.zeros_like, tree)


def save_all(book, metrics):
    for step, metric in metrics.items():
        book.save(to_host(state(step, step)), metric)
    book.wait()


def test_round_trip_keeps_every_bit_and_the_typed_key(book):
    tree = to_host(state(4))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(tree))
    book.save(tree)
    book = reopened(book)
    loaded = book.load(4, like(tree))
    book.close()
    assert_trees_equal(loaded, tree)
    back = to_state(loaded)
    assert jax.dtypes.issubdtype(back.key.dtype, jax.dtypes.prng_key)
    assert_trees_equal(to_host(back), tree)
    np.testing.assert_array_equal(jax.random.normal(back.key, 3), jax.random.normal(state(4).key, 3))
    assert jax.tree.structure(back) == jax.tree.structure(state(4))


def test_what_is_saved_is_the_value_at_the_time(book):
    """The save runs in the background; what happens to the arrays afterwards does not reach it."""
    live = state(2)
    tree, kept = to_host(live), jax.tree.map(np.array, to_host(live))
    book.save(tree)
    moved = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)(live.parameters)
    jax.block_until_ready(moved)
    book.wait()
    assert_trees_equal(book.load(2, like(kept)), kept)


def test_saves_in_quick_succession_are_all_made(book):
    save_all(book, {1: None, 2: None, 3: None})
    assert book.steps == [2, 3]
    assert_trees_equal(book.load(3, like(to_host(state()))), to_host(state(3, 3)))


@pytest.mark.parametrize(
    ("metrics", "kept", "best"),
    [
        ({1: 0.1, 2: 0.9, 3: 0.3, 4: 0.2, 5: 0.4}, [2, 4, 5], 2),
        ({1: 0.1, 2: 0.2, 3: 0.3}, [2, 3], 3),
        ({1: -5.0, 2: None, 3: None, 4: None}, [1, 3, 4], 1),
        ({1: -0.5, 2: -0.1, 3: -0.2, 4: -0.9}, [2, 3, 4], 2),
    ],
)
def test_latest_two_and_the_best_are_kept(book, metrics, kept, best):
    assert book.steps == []
    assert book.best_step is None
    save_all(book, metrics)
    assert (book.steps, book.best_step) == (kept, best)
    book = reopened(book)
    assert (book.steps, book.best_step) == (kept, best)
    assert book.metric(best) == metrics[best]
    assert_trees_equal(book.load(best, like(to_host(state()))), to_host(state(best, best)))
    book.close()


def test_among_equals_the_latest_is_the_best_and_is_kept(book):
    save_all(book, {4: 0.5, 6: 0.5})
    assert book.best_step == 6
    save_all(book, {8: 0.1, 10: 0.2, 12: 0.3})
    assert (book.steps, book.best_step) == ([6, 10, 12], 6)


def test_half_written_saves_are_removed(book):
    save_all(book, {1: None})
    left = book.directory / "2.orbax-checkpoint-tmp"
    (left / "state").mkdir(parents=True)
    (left / "state" / "part").write_bytes(b"cut sh")
    book = reopened(book)
    assert book.steps == [1]
    save_all(book, {2: None})
    assert not left.exists()
    assert book.steps == [1, 2]
    book.close()


def test_a_step_that_is_there_is_left_alone(book):
    save_all(book, {3: 0.5})
    save_all(book, {3: None})
    assert book.steps == [3]
    assert book.metric(3) == 0.5


def test_a_run_that_goes_back_writes_later_steps_again(book):
    save_all(book, {1: 0.1, 2: 0.9, 3: 0.2})
    book.drop_after(1)
    assert book.steps == []  # step 1 was neither among the latest two nor the best
    book.save(to_host(state(2, 5)))
    book.wait()
    assert book.steps[-1] == 2
    assert_trees_equal(book.load(2, like(to_host(state()))), to_host(state(2, 5)))
    book.drop_after(-1)
    assert book.steps == []


def test_other_shapes_are_refused_in_one_line(book):
    save_all(book, {1: None})
    tree = like(to_host(state()))
    wider = {**tree, "parameters": {**tree["parameters"], "table": np.zeros((5, 4), np.float32)}}
    fewer = {**tree, "parameters": {"bias": tree["parameters"]["bias"]}}
    for wrong in (wider, fewer):
        with pytest.raises(UserError, match=rf"checkpoint {book.directory / '1'}: cannot be read") as error:
            book.load(1, wrong)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="cannot be read"):
        book.load(99, tree)


def test_a_directory_that_cannot_be_written_is_the_users_mistake(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"out=.*file/checkpoints: cannot write checkpoints \(.*\)") as error:
        Checkpoints(tmp_path / "file" / "checkpoints")
    assert "\n" not in str(error.value)


def test_a_checkpoint_without_a_readable_metric_is_dropped_and_named(book):
    save_all(book, {1: 0.1, 2: 0.2})
    path = book.directory / "2" / "metrics" / "metrics"
    assert METRIC in path.read_text()
    path.write_bytes(path.read_bytes()[:5])
    book = reopened(book)
    assert book.damaged == [book.directory / "2"]
    assert book.steps == [1]
    book.close()


def test_importing_leaves_the_console_quiet(tmp_path):
    """Orbax logs each save at INFO through absl; a run's console shows none of it."""
    program = (
        "import jax, numpy as np; jax.config.update('jax_platforms', 'cpu')\n"
        "from pathlib import Path\n"
        "from hccp_jax.training.checkpoints import Checkpoints\n"
        f"book = Checkpoints(Path({str(tmp_path / 'c')!r}))\n"
        "book.save({'step': np.int32(1), 'w': np.ones(3)}); book.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


def test_runs_of_several_threads_save_and_load_side_by_side(tmp_path):
    """Orbax tells its saves apart by one number of the process; without a queue they take each other's signals."""
    tree = to_host(state()) | {"more": {str(index): np.full((50, 20), index) for index in range(30)}}

    def one(name):
        for part in range(4):
            book = Checkpoints(tmp_path / f"{name}{part}")
            for step in (1, 2, 3):
                book.save(tree | {"step": np.int32(step)})
            book.wait()
            assert_trees_equal(book.load(3, like(tree)), tree | {"step": np.int32(3)})
            book.close()

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(one, "abc"))


@pytest.mark.parametrize("place", [0.1, 0.4, 0.6, 0.9])
def test_a_flipped_byte_of_an_array_is_noticed(book, place):
    tree = to_host(state(1)) | {"large": np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)}
    book.save(tree)
    book.wait()
    file = max((f for f in (book.directory / "1").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 0x10
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"checkpoints?/.*1: cannot be read \("):
        reopened(book).load(1, jax.tree.map(np.zeros_like, tree))
