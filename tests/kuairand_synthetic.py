"""A tiny log in exactly the published schema of KuaiRand-Pure, for tests."""

import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from hccp_jax.data import kuairand as kr

USERS, VIDEOS, DAYS = 12, 60, 7
FIRST = datetime(2022, 4, 24, 16, tzinfo=UTC)  # midnight of 25 April in Asia/Shanghai
LOG_HEADER = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
)
USER_HEADER = (
    "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,follow_user_num,"
    "follow_user_num_range,fans_user_num,fans_user_num_range,friend_user_num,friend_user_num_range,register_days,"
    "register_days_range," + ",".join(f"onehot_feat{i}" for i in range(18))
)
VIDEO_HEADER = (
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,server_height,"
    "music_id,music_type,tag"
)

DEGREES = ("full_active", "middle_active", "day_new")


def log_row(user, video, day, second, click=0, long_view=0, tab=1):
    moment = FIRST + timedelta(days=day, seconds=second)
    date = (moment + timedelta(hours=8)).strftime("%Y%m%d")
    time_ms = int(moment.timestamp() * 1000)
    return f"{user},{video},{date},0,{time_ms},{click},0,0,0,0,0,{long_view},100,9000,0,0,0,0,{tab}"


def log_rows(seed=0, count=400):
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        day = index % DAYS
        click = int(rng.random() < 0.5)
        second = int(rng.integers(0, 86_000))
        user, video, tab = int(rng.integers(USERS)), int(rng.integers(VIDEOS)), int(rng.choice([0, 1, 1, 4]))
        rows.append(log_row(user, video, day, second, click, int(rng.random() < 0.3), tab))
    return rows


def user_rows():
    tail = ",".join(["1", "3", "19", "7", "", "0", "0", "31", "283", "6", "2", "2", *["", "0.0"] * 3])
    return [
        f'{u},{DEGREES[u % 3]},0,-124,{u % 2},{u},"(250,500]",20,"[10,100)",3,"[1,5)",9,730+,{tail}'
        for u in range(USERS)
    ]


def video_rows():
    tags = ["39", '"12,65"', "", "8"]
    seconds = ["" if v % 9 == 0 else 5000.0 + 997 * v for v in range(VIDEOS)]
    middle = "NORMAL,2022-04-10,Web,0.0"
    return [f"{v},{v // 4},{middle},{seconds[v]},720.0,1280.0,{v},9.0,{tags[v % 4]}" for v in range(VIDEOS)]


def history_rows(seed=0):
    rng = np.random.default_rng(seed)
    return [f"{u},{rng.integers(VIDEOS)},{pos},{rng.integers(2)}" for u in range(USERS - 2) for pos in range(u % 5)]


def write(folder: Path, header: str, rows: list[str], name: str, *, gz: bool = False) -> Path:
    data = "\n".join([header, *rows, ""]).encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (name + (".gz" if gz else ""))
    path.write_bytes(gzip.compress(data) if gz else data)
    return path


def write_all(folder: Path, *, rows: list[str] | None = None, gz: bool = False, history: bool = True) -> Path:
    """All files, the published ones in the `data` sub-folder when gzipped."""
    data = folder / "data" if gz else folder
    write(data, LOG_HEADER, log_rows() if rows is None else rows, kr.LOG, gz=gz)
    write(data, USER_HEADER, user_rows(), kr.USERS, gz=gz)
    write(data, VIDEO_HEADER, video_rows(), kr.VIDEOS, gz=gz)
    if history:
        write(folder, "user_id,video_id,pos,long_watch", history_rows(), kr.EARLIER_DERIVED, gz=gz)
    return folder


def small_config(**changes) -> kr.KuaiRandConfig:
    """Days 0..3 train, 4 validation, 5 and 6 test."""
    settings = {"test_from": "20220430", "history": 6, "exposed": 3, "ranked": 4, "preranked": 3, "pool": 3}
    return kr.KuaiRandConfig(**(settings | {"candidates": 120, "to_ranking": 35} | changes))


def tables(folder: Path, **options) -> kr.Tables:
    return kr.read(write_all(folder, **options))
