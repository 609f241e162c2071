"""Tiny files in the published schema of Ali_Display_Ad_Click, and what a slow reading makes of them, for tests."""

import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from hccp_jax.data.convert import convert
from hccp_jax.data.requests import validate

BEGIN = 1494000000  # 2017-05-06 00:00 in UTC+8
DAY = 24 * 3600
LOG_HEADER = "user,time_stamp,adgroup_id,pid,nonclk,clk"
AD_HEADER = "adgroup_id,cate_id,campaign_id,customer,brand,price"
PROFILE_HEADER = (
    "userid,cms_segid,cms_group_id,final_gender_code,age_level,pvalue_level,shopping_level,occupation,"
    "new_user_class_level "
)
BEHAVIOUR_HEADER = "user,time_stamp,btag,cate,brand"
FIRST, SECOND = "430548_1007", "430539_1007"
ADS = ["63133,6406,83237,1,95471,170.0", "7,6406,83237,2,NULL,0.5", "9,11,5,2,95471,19.99", "1000000,12,6,3,4,1e7"]
AD_IDS = [7, 9, 63133, 1000000]
PROFILES = ["234,0,5,2,5,,3,0,3", "523,5,2,2,2,1,3,1,2", "612,0,8,1,2,2,3,0,"]
EACH_PART = [(234, BEGIN + 5, 7, FIRST, 1), (234, BEGIN + 6 * DAY, 9, FIRST, 0), (523, BEGIN + 7 * DAY, 7, SECOND, 1)]


def write(folder: Path, name: str, header: str, rows: list[str], *, gz=False, end="\n", bom=False) -> None:
    text = ("\ufeff" if bom else "") + "".join(line + end for line in (header, *rows))
    path = folder / (name + ".gz" if gz else name)
    path.write_bytes(gzip.compress(text.encode()) if gz else text.encode())


def write_all(folder: Path, impressions=EACH_PART, behaviours=None, **how) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{user},{time},{ad},{pid},{1 - click},{click}" for user, time, ad, pid, click in impressions]
    write(folder, "raw_sample.csv", LOG_HEADER, rows, **how)
    write(folder, "ad_feature.csv", AD_HEADER, ADS, **how)
    write(folder, "user_profile.csv", PROFILE_HEADER, PROFILES, **how)
    if behaviours is not None:
        lines = [",".join(map(str, row)) for row in behaviours]
        write(folder, "behavior_log.csv", BEHAVIOUR_HEADER, lines, **how)
    return folder


def converted(folder: Path, output: Path, **changes):
    return convert("taobao_ads", folder, output, changes, lambda line: None)


def local(time: int) -> datetime:
    return datetime.fromtimestamp(time, UTC) + timedelta(hours=8)


def expected(impressions, changes) -> dict:
    """Part -> [(user, request time, [(ad, click, rank)], [(past ad, time)], hour, pid)], one impression at a time."""
    clicked: dict = {}
    for user, time, ad, pid, click in impressions:
        if "2017-05-06" <= str(local(time).date()) <= "2017-05-13":
            clicked[user, time, ad, pid] = max(click, clicked.get((user, time, ad, pid), 0))
    found: dict = {"train": [], "validation": [], "test": []}
    last: tuple = ()
    members: list = []
    events = sorted(
        (user, time, ad, [SECOND, FIRST].index(pid), click) for (user, time, ad, pid), click in clicked.items()
    )
    for user, time, ad, pid, click in events:
        day = str(local(time).date())
        paused = changes["lists"] == "gap" and last and time - last[2] > 3600
        if not last or last[:2] != (user, day) or paused or len(members) == changes["width"]:
            members = []
            past = [
                (a, t)
                for u, t, a, _, c in events
                if u == user and t < time and (c or changes["history_of"] == "impressions")
            ]
            part = {"2017-05-12": "validation", "2017-05-13": "test"}.get(day, "train")
            found[part].append((user, time, members, past[-changes["history"] :], local(time).hour, pid))
        members.append((ad, click, len(members)))
        last = (user, day, time)
    for lists in found.values():
        for one in lists:
            one[2].sort(key=lambda item: -item[1])
    return found


def read(store) -> dict:
    """The same from a store."""
    users, items = store["published_users"]["id"], store["published_items"]["id"]
    context = int(store.facts["spec"]["user_categories"]) - 24 - len({FIRST, SECOND})
    found: dict = {}
    for part in ("train", "validation", "test"):
        table = store[part]
        batch = validate(table.requests())
        rows = found[part] = []
        for row in range(len(table)):
            mask, real = batch.mask[row], batch.history_mask[row]
            assert not real[:-1][real[1:] < real[:-1]].any()  # real ones are last
            times = np.asarray(table["history_time"][row])[real] // 1000
            past = [(int(items[i]), int(t)) for i, t in zip(batch.history["id"][row][real], times, strict=True)]
            members = [
                (int(items[i]), int(c), int(r))
                for i, c, r in zip(
                    batch.items["id"][row][mask], batch.labels["click"][row][mask], batch.rank[row][mask], strict=True
                )
            ]
            hour, pid = batch.user["categorical"][row] - [context, context + 24]
            user = int(users[batch.user["id"][row]])
            rows.append((user, int(table["request_time"][row]) // 1000, members, past, int(hour), int(pid)))
    return found
