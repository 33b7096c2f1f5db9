"""The store keeps whole chunks by context, and explains files that it cannot use."""

import random
import re
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from opsearch.data.groups import Seen
from opsearch.errors import RunFolderError
from opsearch.measure.storage.records import Compared, Measurement, StoredAnswer, StoredSample
from opsearch.measure.storage.store import Store
from tests.support.measured import stored_count
from tests.support.messages import naming, refuses

FACTS = {"model": "m", "positions": 1}
SAMPLES = [StoredSample(f"i{k}", f"name {k}", "f", 9, k, f"c{k}") for k in range(3)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "measurements.db"


def chunk(number, size=7):
    """Return measurements of policy `number` on `size` items."""
    return [Measurement(f"p{number}", f"i{k}", number + k / 10, 2.0, 3.0, 1.0) for k in range(size)]


def fill(path, chunks, facts=FACTS):
    with Store(path, facts) as store:
        for number in range(chunks):
            store.add(chunk(number))


def policies(chunks):
    return [f"p{number}" for number in range(chunks)]


def test_what_was_added_is_found_again(path):
    fill(path, 3)
    with Store(path, FACTS) as store:
        assert stored_count(store) == 21
        assert store.get(["p1", "p1", "p9"]) == {("p1", f"i{k}"): 1 + k / 10 for k in range(7)}
        assert set(store.get(["p1"], "reverse_kl").values()) == {2.0}
        assert set(store.get(["p1"], "js").values()) == {3.0}
        assert set(store.get(["p1"], "top1").values()) == {1.0}
        assert store.get([]) == {}
        with refuses(ValueError, "'kl; DROP TABLE measurement'"):
            store.get(["p1"], "kl; DROP TABLE measurement")
        with refuses(ValueError, "'kl; DROP TABLE measurement'"):
            store.table(["p1"], ["i1"], ("js", "kl; DROP TABLE measurement"))


def test_a_table_holds_what_is_stored_and_nan(path):
    fill(path, 3)
    fill(path, 4, {"model": "other"})
    with Store(path, FACTS) as store:
        table = store.table(["p2", "p9", "p0", "p2"], ["i1", "x", "i0", "i1"], ("kl", "js"))
        assert table.shape == (2, 4, 4)
        wanted = [[2.1, np.nan, 2.0, 2.1], [np.nan] * 4, [0.1, np.nan, 0.0, 0.1]]
        assert np.array_equal(table[0], [*wanted, wanted[0]], equal_nan=True)
        assert np.array_equal(table[1] == 3.0, ~np.isnan(table[0]))
        assert np.isnan(store.table(["p3"], ["i1"])).all()
        assert store.table([], ["i1"]).shape == (1, 0, 1)


def test_everything_is_what_was_added(path):
    fill(path, 3)
    fill(path, 1, {"model": "other"})
    with Store(path, FACTS) as store:
        key = {(m.policy, m.item): m for m in store.everything()}
        assert key == {(m.policy, m.item): m for number in range(3) for m in chunk(number)}


def test_answers_are_found_by_policy_and_the_last_one_stays(path):
    red = StoredAnswer("p", "i0", "red", 1.0, tokens=16, cut=True)
    with Store(path, FACTS) as store:
        store.add_answers([StoredAnswer("p", f"i{k}", "blue", k / 2) for k in range(3)])
        store.add_answers([red, StoredAnswer("q", "i0", "a", 0.0)])
        assert store.answers(["q", "q"]) == {("q", "i0"): StoredAnswer("q", "i0", "a", 0.0)}
        assert store.answers(["p"])["p", "i0"] == red
        assert [store.answers(["p"])["p", f"i{k}"].score for k in range(3)] == [1.0, 0.5, 1.0]
    with Store(path, {"model": "other"}) as store:
        assert store.answers(["p"]) == {}


def test_the_last_comparison_stays_in_its_order(path):
    rows = [Compared("30%", "VTW", "{}"), Compared("20%", "VTW", "{}")]
    with Store(path, FACTS) as store:
        store.put_comparison([Compared("15%", "VTW", "{}"), *rows], {"compared": SAMPLES[:1]})
        store.put_comparison(rows, {"compared": SAMPLES})
    with Store(path, FACTS) as store:
        assert store.compared() == rows
        assert store.samples("compared") == SAMPLES
    with Store(path, {"model": "other"}) as store:
        assert store.compared() == []


def test_what_a_search_saw_is_replaced_with_its_samples(path):
    seen = Seen(("i1", "i0"), ("p2", "p1", "p3"), ("g",))
    with Store(path, FACTS) as store:
        store.put_calibration(SAMPLES, Seen(("old",), ("old",), ("old",)))
        store.put_calibration(SAMPLES[:2], seen)
    with Store(path, FACTS) as store:
        assert (store.seen(), store.calibration()) == (seen, SAMPLES[:2])
    with Store(path, {"model": "other"}) as store:
        assert store.seen() is None


def test_the_first_value_stays(path):
    fill(path, 2)
    with Store(path, FACTS) as store:
        store.add([Measurement("p1", "i0", 99.0, 0.0, 0.0, 0.0)])
        assert store.get(["p1"])["p1", "i0"] == 1.0
        assert stored_count(store) == 14


def test_contexts_do_not_mix(path):
    fill(path, 2)
    other = {**FACTS, "positions": 3}
    with Store(path, other) as store:
        assert stored_count(store) == 0
        assert store.get(policies(2)) == {}
        store.add([Measurement("p1", "i0", 7.0, 0.0, 0.0, 0.0)])
        store.put_samples("calibration", [StoredSample("i0", "a", "f", 1, 2, "c0")])
    with Store(path, dict(reversed(FACTS.items()))) as store:
        assert stored_count(store) == 14
        assert store.get(["p1"])["p1", "i0"] == 1.0
        assert store.samples("calibration") == []


def test_without_facts_the_last_used_context_opens(path):
    fill(path, 2)
    fill(path, 1, {"model": "other"})
    with Store(path) as store:
        assert (store.facts, stored_count(store)) == ({"model": "other"}, 7)
    fill(path, 0)
    for _ in range(2):
        with Store(path) as store:
            assert (store.facts, stored_count(store)) == (FACTS, 14)


def test_a_split_is_replaced_and_keeps_its_order(path):
    first = [StoredSample(f"i{k}", f"item {k}", "f", 100, k, f"c{k}") for k in range(12)]
    with Store(path, FACTS) as store:
        store.put_samples("calibration", first)
        store.put_samples("held-out", first[:2])
        store.put_samples("calibration", first[::-1][:5])
        assert store.samples("calibration") == first[::-1][:5]
        assert store.samples("held-out") == first[:2]
        assert store.samples("test") == []


def test_the_state_of_a_descent_replaces_the_former_one_of_its_search_and_context(path):
    with Store(path, FACTS) as store:
        assert store.descent("a") is None
        store.put_descent("a", b"1")
        store.put_descent("b", b"2")
        store.put_descent("a", b"3")
        assert (store.descent("a"), store.descent("b")) == (b"3", b"2")
    with Store(path, FACTS | {"model": "another"}) as store:
        assert store.descent("a") is None


# Files that cannot be used are left as they are.


def is_refused(path, facts, *parts):
    content = path.read_bytes()
    with refuses(RunFolderError, path, *parts), Store(path, facts) as store:
        store.get(policies(300))
    assert path.read_bytes() == content


@pytest.mark.parametrize("facts", [FACTS, None])
def test_a_file_that_is_no_database(path, facts):
    path.write_text("these are no measurements" * 50)
    is_refused(path, facts, "file is not a database", "move", "--out")


def test_a_damaged_database(path):
    fill(path, 300)
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xaa" * (len(content) - 4096)
    path.write_bytes(content)
    is_refused(path, FACTS, "malformed", "move", "--out")


def test_a_truncated_database(path):
    fill(path, 300)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    is_refused(path, FACTS, "malformed", "move", "--out")


@pytest.mark.parametrize("facts", [FACTS, None])
def test_a_database_of_another_program(path, facts):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE context (id INTEGER)")
    db.close()
    is_refused(path, facts, "another program", "--out")


def test_a_newer_format(path):
    fill(path, 1)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=10")
    db.close()
    is_refused(path, FACTS, 10, 8, "opsearch", "--out")


def test_answers_of_format_3_are_read_without_lengths(path):
    fill(path, 1)
    with sqlite3.connect(path) as db:
        db.executescript(
            "ALTER TABLE answer DROP COLUMN tokens; ALTER TABLE answer DROP COLUMN cut"
        )
        db.execute("INSERT INTO answer SELECT id, 'p', 'i', 'yes', 1.0 FROM context")
        db.execute("PRAGMA user_version=3")
    db.close()
    for _ in range(2):
        with Store(path) as store:
            assert store.answers(["p"])["p", "i"] == StoredAnswer("p", "i", "yes", 1.0)
            store.add_answers([StoredAnswer("p", "j", "no", 0.0, tokens=2, cut=True)])
            assert store.answers(["p"])["p", "j"].cut


def test_a_store_of_format_1_is_read_and_completed(path):
    fill(path, 2)
    with sqlite3.connect(path) as db:
        db.executescript(
            "DROP TABLE answer; DROP TABLE compared; DROP TABLE received; DROP TABLE seen;"
        )
        db.execute("PRAGMA user_version=1")
    db.close()
    with Store(path, FACTS) as store:
        assert stored_count(store) == 14
        assert store.seen() is None
        store.add_answers([StoredAnswer("p", "i", "yes", 1.0)])
        store.add_received([("i", np.ones((3, 2, 5), np.float32))])
    with Store(path) as store:
        assert len(store.answers(["p"])) == 1
        assert store.received(["i", "j"])["i"].tolist() == np.ones((3, 2, 5)).tolist()


def test_flops_of_images_are_kept_and_unknown_in_samples_of_format_7(path):
    fill(path, 1)
    known = [replace(sample, image_flops=10**18 + k) for k, sample in enumerate(SAMPLES)]
    with Store(path, FACTS) as store:
        store.put_samples("calibration", [*known, SAMPLES[0]])
        assert store.samples("calibration") == [*known, SAMPLES[0]]
        assert [sample for _, sample in store.all_samples()] == [*known, SAMPLES[0]]
        store.share_samples("other")
    with Store(path, result="other") as store:
        assert store.samples("calibration") == [*known, SAMPLES[0]]
    with sqlite3.connect(path) as db:
        db.execute("ALTER TABLE sample DROP COLUMN image_flops")
        db.execute("PRAGMA user_version=7")
    db.close()
    for _ in range(2):
        with Store(path) as store:
            assert store.samples("calibration") == [*SAMPLES, SAMPLES[0]]


def test_samples_of_format_3_have_one_digest_for_both(path):
    fill(path, 2)
    with Store(path, FACTS) as store:
        store.put_samples("calibration", SAMPLES)
    with sqlite3.connect(path) as db:
        db.execute("ALTER TABLE sample DROP COLUMN content")
        db.execute("PRAGMA user_version=3")
    db.close()
    for _ in range(2):
        with Store(path) as store:
            assert store.calibration() == [replace(each, content=each.item) for each in SAMPLES]
            assert stored_count(store) == 14
    with Store(path) as store:
        store.put_samples("calibration", SAMPLES)
        assert store.calibration() == SAMPLES


def test_each_answer_has_its_own_samples_and_comparison(path):
    """All share the measurements, and a reader finds the context in which its answer was found."""
    rows = [Compared("30%", "VTW", "{}")]
    with Store(path, FACTS) as store:
        store.put_calibration(SAMPLES, Seen(("i0",), ("p",), ()))
        store.put_comparison(rows, {"compared": SAMPLES})
        store.add(chunk(1))
    other = {"model": "other"}
    tested = [Compared("20%", "VTW", "{}")]
    with Store(path, other, "solved") as store:
        store.put_comparison(tested, {"compared": SAMPLES[2:]})
    with Store(path, other, "further") as store:
        assert (store.samples("calibration"), store.compared(), store.seen()) == ([], [], None)
        store.put_calibration(SAMPLES[:1], Seen(("i1",), (), ()))
        store.put_samples("held-out", SAMPLES[1:])
        store.share_samples("solved")
    with Store(path) as store:
        assert (store.facts, store.calibration()) == (FACTS, SAMPLES)
        assert (store.compared(), store.seen()) == (rows, Seen(("i0",), ("p",), ()))
        assert stored_count(store) == 7
    for name in ("further", "solved"):
        with Store(path, result=name) as store:
            assert (store.facts, store.calibration()) == (other, SAMPLES[:1])
            assert store.samples("held-out") == SAMPLES[1:]
            assert store.seen() == Seen(("i1",), (), ())
            # Solving again leaves the comparison of an answer as it is.
            assert store.compared() == (tested if name == "solved" else [])
            assert store.samples("compared") == (SAMPLES[2:] if name == "solved" else [])
            own = [each for each in store.all_samples() if each[0]]
            listed = [("calibration", SAMPLES[0]), *(("held-out", each) for each in SAMPLES[1:])]
            assert [each for each in own if each[0] != "compared"] == listed
            assert len(store.all_samples()) == 7
    with Store(path, result="new") as store:
        assert store.facts == other  # used last


def test_a_result_is_found_in_the_context_of_its_last_search(path):
    """Also if another result of the former context is searched afterwards."""
    other = {"model": "other"}
    for facts, samples in ((FACTS, SAMPLES), (other, SAMPLES[:2])):
        with Store(path, facts) as store:
            store.put_calibration(samples, Seen(("i0",), (), ()))
    with Store(path, FACTS, "further") as store:
        store.put_calibration(SAMPLES[:1], Seen(("i0",), (), ()))
    with Store(path) as store:
        assert (store.facts, store.calibration()) == (other, SAMPLES[:2])
        assert store.seen() == Seen(("i0",), (), ())


def test_a_copy_holds_one_result(path, tmp_path):
    with Store(path, FACTS) as store:
        store.put_calibration(SAMPLES, Seen(("i0",), (), ()))
        store.put_comparison([Compared("20%", "VTW", "{}")], {"compared": SAMPLES})
        store.add(chunk(1))
    rows = [Compared("30%", "FastV", "{}")]
    with Store(path, FACTS, "further") as store:
        store.put_calibration(SAMPLES[:1], Seen(("i1",), (), ()))
        store.put_comparison(rows, {"compared": SAMPLES[1:]})
        store.copy_to(tmp_path / "copy.db")
    with Store(tmp_path / "copy.db") as store:
        assert (store.calibration(), store.compared()) == (SAMPLES[:1], rows)
        assert store.samples("compared") == SAMPLES[1:]
        assert store.seen() == Seen(("i1",), (), ())
        assert stored_count(store) == 7
        assert all(split for split, _ in store.all_samples())


def test_rows_of_format_6_belong_to_the_first_answer(path):
    rows = [Compared(budget, "VTW", "{}") for budget in ("30%", "20%", "50%")]
    seen = Seen(("i2", "i0"), ("p",), ("g",))
    with Store(path, FACTS) as store:
        store.put_calibration(SAMPLES, seen)
        store.put_comparison(rows, {"compared": SAMPLES[1:]})
        store.add(chunk(1))
    with sqlite3.connect(path) as db:
        for table, keys in (
            ("sample", "context, split, place"),
            ("seen", "context, kind, value"),
            ("compared", "context, budget, method"),
        ):
            db.execute(f"ALTER TABLE {table} RENAME TO former")
            db.execute(f"CREATE TABLE {table} AS SELECT * FROM former")
            db.execute(f"ALTER TABLE {table} DROP COLUMN result")
            db.execute(f"CREATE UNIQUE INDEX {table}_keys ON {table} ({keys})")
            db.execute("DROP TABLE former")
        db.execute("PRAGMA user_version=6")
    db.close()
    for _ in range(2):
        with Store(path) as store:
            assert store.calibration() == SAMPLES
            assert store.samples("compared") == SAMPLES[1:]
            assert (store.compared(), store.seen()) == (rows, seen)
            assert stored_count(store) == 7


def test_a_store_without_a_context(path):
    with sqlite3.connect(path) as db:
        db.execute("VACUUM")
    db.close()
    with refuses(RunFolderError, path, "opsearch run"):
        Store(path)


def test_a_missing_store_is_not_made_when_it_is_only_read(path):
    with refuses(RunFolderError, path, "opsearch run"):
        Store(path)
    assert not path.exists()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "measurements.db"
    with refuses(RunFolderError, path, "unable to open database file", "writable", "--out"):
        Store(path, FACTS)


def test_another_process_that_writes(path):
    fill(path, 1)
    hold = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "db.execute('BEGIN IMMEDIATE'); print('held', flush=True); sys.stdin.read()"
    )
    with Store(path, FACTS) as store:
        store._db.execute("PRAGMA busy_timeout=50")
        other = subprocess.Popen(
            [sys.executable, "-c", hold, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert other.stdout.readline() == b"held\n"
        with refuses(RunFolderError, path, "database is locked", "process", "--out"):
            store.add(chunk(1))
        other.communicate()
        store.add(chunk(1))
        assert stored_count(store) == 14


def test_a_full_disk(path):
    fill(path, 5)
    with Store(path, FACTS) as store:
        pages = store._db.execute("PRAGMA page_count").fetchone()[0]
        store._db.execute(f"PRAGMA max_page_count={pages}")
        with refuses(RunFolderError, path, "disk is full", "space"):
            store.add(chunk(5, size=500))
        assert stored_count(store) == 35
        store._db.execute("PRAGMA max_page_count=100000")
        store.add(chunk(5, size=500))
        assert stored_count(store) == 535


WRITER = """
import resource, sys
from pathlib import Path
from opsearch.errors import RunFolderError
from opsearch.measure.storage.store import Measurement, Store
store = Store(Path(sys.argv[1]), {"model": "m", "positions": int(sys.argv[2])})
if len(sys.argv) > 3:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), -1))
done = sum(1 for _ in store.everything()) // 7
try:
    while True:
        store.add([Measurement(f"p{done}", f"i{k}", done + k / 10, 2, 3, 1) for k in range(7)])
        print(done, flush=True)
        done += 1
except RunFolderError as error:
    print(error, file=sys.stderr)
"""


def test_a_quota_is_not_reported_as_damage(path):
    """A write beyond the quota is reported as missing space, not as a damaged file."""
    fill(path, 1)
    limit = str(path.stat().st_size + 60_000)
    done = subprocess.run(
        [sys.executable, "-c", WRITER, path, "1", limit], capture_output=True, text=True, timeout=60
    )
    written = len(done.stdout.split())
    assert written > 10
    assert re.search(naming(path, "space"), done.stderr)
    assert "--out" not in done.stderr
    with Store(path, FACTS) as store:
        assert stored_count(store) == 7 * (1 + written)


def printed_before_kill(path, positions, seconds, started):
    """Return the chunks that a writer printed before it was killed.

    The kill comes `seconds` after its start, or after its first chunk where `started`.
    """
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, path, str(positions)], stdout=subprocess.PIPE
    )
    lines = [writer.stdout.readline()] if started else []
    time.sleep(seconds)
    writer.kill()
    lines += writer.communicate()[0].splitlines(keepends=True)
    return max((int(line) + 1 for line in lines if line.endswith(b"\n")), default=0)


def test_killed_writers_leave_what_an_undisturbed_one_writes(path):
    """Kill fifty writers at random moments; the next writer of the context resumes each.

    Every second kill comes early, while the writer imports, opens or creates the store.
    """
    moments = random.Random(0)
    finished = {1: 0, 2: 0}
    for attempt in range(50):
        positions, started = 1 + attempt // 2 % 2, attempt % 2 == 1
        seconds = moments.uniform(0.0, 0.03 if started else 0.2)
        printed = max(printed_before_kill(path, positions, seconds, started), finished[positions])
        with Store(path, {"model": "m", "positions": positions}) as store:
            total, rest = divmod(stored_count(store), 7)
            assert rest == 0
            assert total in (printed, printed + 1)  # killed before it printed the last one
            expected_rows = {(m.policy, m.item): m.kl for n in range(total) for m in chunk(n)}
            assert store.get(policies(total)) == expected_rows
        finished[positions] = total
    assert min(finished.values()) >= 12


def test_numbers_of_the_same_samples_are_taken_from_a_store_with_the_same_facts(path, tmp_path):
    fill(path, 2)
    with Store(path, FACTS) as store:
        store.add_answers([StoredAnswer("p0", f"i{k}", "red", 1.0, 2, False) for k in range(3)])
        store.require_checkpoint("clip", "a")
    with Store(tmp_path / "other.db", FACTS) as store:
        store.take(path, ["i1", "i2"])
        store.take(path, ["i1"])
        store.take(tmp_path / "none.db", ["i1"])
        assert store.get(["p0"]) == {("p0", "i1"): 0.1, ("p0", "i2"): 0.2}
        assert stored_count(store) == 4
        assert set(store.answers(["p0"])) == {("p0", "i1"), ("p0", "i2")}
        with refuses(RunFolderError, "clip"):
            store.require_checkpoint("clip", "b")
    with Store(tmp_path / "foreign.db", FACTS | {"positions": 2}) as store:
        store.take(path, ["i1"])
        assert stored_count(store) == 0
