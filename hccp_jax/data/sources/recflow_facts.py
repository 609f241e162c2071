"""What a conversion of RecFlow tells of its data: rows by stage and day, what was left out, and sizes."""

from collections import Counter
from collections.abc import Mapping, Sequence

from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.data.sources.dataset import Facts
from hccp_jax.data.sources.recflow_files import FLAGS, ZONE

_LEFT_OUT = {
    "repeated": "rows that repeat an item of their request, merged into one item with all flags",
    "unflagged": "items without a stage of the protocol, left out",
    "over_limit": "items over the limits of training lists, left out by a draw",
    "over_slots": "items over the slots of their list, left out from its end",
    "no_history": "requests without a history",
    "late_requests": "requests not before the first of the next part, left out",
    "history_not_before": "behaviours of histories that are not before their request, left out",
    "feedback_unexposed": "items with feedback that were not shown: their feedback is taken for none",
}
_UNEXPECTED = ("late_requests", "history_not_before", "feedback_unexposed")


def facts_of(
    tasks: Sequence[str],
    parts: Mapping[str, Sequence[str]],
    missing: Sequence[str],
    counts: Mapping[str, Mapping[str, int]],
    totals: Mapping[str, Mapping[str, int]],
    shown: Mapping[str, int | None],
    sizes: Mapping[str, int],
    item_categories: int,
    user_categories: int,
) -> Facts:
    """What is known.

    Args:
        tasks: the labels.
        parts: part -> its days.
        missing: days between them that are not there.
        counts: day -> rows in all and with each flag.
        totals: day -> requests, and counts of what was left out.
        shown: day -> rows of `realshow`, None where that is not there.
        sizes: column -> size of its vocabulary.
        item_categories: size of the vocabulary of videos' features.
        user_categories: of requests' and users' features.
    """
    lines = [f"{part}: {days[0]} to {days[-1]}, {len(days)} days" for part, days in parts.items()]
    for day, count in counts.items():
        flags = ", ".join(f"{flag} {count[flag]:,}" for flag in FLAGS)
        lines.append(f"{day}: {totals[day]['requests']:,} requests, {count['rows']:,} rows ({flags})")
    whole = sum((Counter(found) for found in totals.values()), Counter[str]())
    told = {name: f"{whole[name]:,} {words}" for name, words in _LEFT_OUT.items() if whole[name]}
    lines += [line for name, line in told.items() if name not in _UNEXPECTED]
    warnings = [line for name, line in told.items() if name in _UNEXPECTED]
    for day, rows in shown.items():
        if rows is not None and rows != counts[day]["realshow"]:
            warnings.append(f"realshow/{day}: {rows:,} rows, but all_stage has {counts[day]['realshow']:,} exposures")
    if missing:
        warnings.append(f"days that are not there: {', '.join(missing)}")
    warnings += [
        "the public code takes hours from the machine's time zone, here they are of Asia/Shanghai; its ndcg has no "
        "ideal DCG and its recall and ndcg are of all requests together: see evaluation.recflow_metrics",
        "category_level_one 2 is the padding of the public code and counts as missing",
    ]
    spec = FeatureSpec(
        users=sizes["user_id"],
        items=sizes["video_id"],
        user_categories=user_categories,
        item_categories=item_categories,
        tasks=tuple(tasks),
        history_groups=1,
        cross=0,
    )
    vocabulary = {"items.id": spec.items, "history.id": spec.items, "user.id": spec.users}
    return Facts(
        spec=spec,
        vocabulary=vocabulary | {"user.categorical": user_categories},
        zone=ZONE,
        lines=lines,
        warnings=warnings,
        more={"vocabularies": dict(sizes)},
    )
