"""Settles JAX before its backend starts: hosts, devices, compile cache; and says what there is."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from hccp_jax.errors import UserError
from hccp_jax.training import hosts
from hccp_jax.training.program import Placement

HITS, MISSES = "/jax/compilation_cache/cache_hits", "/jax/compilation_cache/cache_misses"


def start_jax(given: Mapping[str, Any]) -> Placement:
    """Start JAX as the flags say; returns where training runs.

    Without --distributed and with one device a batch, trials are spread over the devices there are. Over several hosts
    all devices share each batch unless --devices says how many.

    Raises:
        UserError: for a cache that cannot be written, hosts that do not find each other, or missing devices.
    """
    devices, cache = given["devices"], given["cache_dir"]
    many = many_hosts(given)
    if not many:
        jax.config.update("jax_num_cpu_devices", max(devices, _cores() if devices == 1 else 1))
    if cache != "none":
        _keep_compiled(Path(cache) if cache else _default_cache())
    if given["smoke"]:  # half the compile time, which is most of it
        jax.config.update("jax_disable_most_optimizations", True)
    if many:
        hosts.join(given["coordinator"], given["host_count"], given["host_index"])
        devices = len(jax.devices()) if devices == 1 else devices
    if len(jax.devices()) < devices:
        raise UserError(f"devices={devices}: only {len(jax.devices())} of {jax.default_backend()} are there")
    if not hosts.is_alone() and devices != len(jax.devices()):
        raise UserError(f"devices={devices}: expected all {len(jax.devices())} of the {jax.process_count()} hosts")
    if devices > 1:
        return Placement(given["parallel"], devices, 1, given["model_devices"])
    if given["model_devices"] > 1:
        raise UserError(f"model_devices={given['model_devices']}: expected at most devices={devices}")
    spread = len(jax.devices())
    return Placement("mesh" if spread > 1 else "single", 1, spread)


def many_hosts(given: Mapping[str, Any]) -> bool:
    """Whether the flags say that this is one of several hosts."""
    return given["distributed"] or any(given[n] not in (None, "") for n in ("coordinator", "host_count", "host_index"))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hccp_jax"


def _keep_compiled(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cache_dir={directory}: cannot be written ({error.strerror})") from None
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def describe(placement: Placement) -> str:
    """One line: devices and their memory, how they are laid out, and what is compiled already."""
    device = jax.local_devices()[0]
    count = len(jax.devices())
    place = f"{count} x {device.device_kind}"
    if not hosts.is_alone():
        place += f" of {jax.process_count()} hosts"
    if placement.devices > 1:
        grid = f"{placement.devices // placement.model} x {placement.model}"
        layout = f"{placement.kind} of {grid} (batch x tables)" if placement.kind == "mesh" else placement.kind
    else:
        layout = "a run on each" if placement.population > 1 else "one run at a time"
    directory = getattr(jax.config, "jax_compilation_cache_dir", None)
    kept = len([*Path(directory).glob("*-cache")]) if directory else 0
    cache = f"{kept} programs in the compile cache" if directory else "no compile cache"
    return f"{place}, {_memory(device)}; {layout}; {cache}"


def _memory(device: Any) -> str:
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit:
        return f"{limit / 2**30:.0f} GiB each"
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB of memory"


def count_compiled() -> Callable[[], str]:
    """Begin to count programs; the function returned says how many were compiled and how many the cache had."""
    seen = {HITS: 0, MISSES: 0}

    def listen(event: str, **_: Any) -> None:
        if event in seen:
            seen[event] += 1

    jax.monitoring.register_event_listener(listen)
    return lambda: f"programs: {seen[MISSES]} compiled, {seen[HITS]} from the compile cache"
