"""Processes that want to build the same folder take turns, and the folder may vanish under any of them."""

import threading

from tfds_builders.common import lock


def test_one_at_a_time_while_the_folder_comes_and_goes(tmp_path):
    working, inside, turns, wrong = tmp_path / "x.building", [], [], []

    def build(n):
        try:
            for turn in range(150):
                with lock.only_one(working, progress=False):
                    inside.append(n)
                    (working / f"{n}").write_text("half-built")
                    wrong.extend([list(inside)] if inside != [n] else [])
                    if turn % 3:  # else it is left for another process to resume
                        lock.clear(working)
                    inside.remove(n)
                    turns.append(n)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=build, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(turns) == 6 * 150


def test_the_folder_goes_when_nothing_is_left_in_it(tmp_path):
    working = tmp_path / "x.building"
    with lock.only_one(working, progress=False):
        (working / "plates").mkdir()
    assert [path.name for path in working.iterdir()] == ["plates"]
    with lock.only_one(working, progress=False):
        lock.clear(working)
    assert not working.exists()
