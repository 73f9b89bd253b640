"""Weak scaling keeps the rows of a process, strong scaling those of all; a point of both is measured once."""

from dataclasses import replace

from benchmarks.throughput.points import all_series, points_of, words
from benchmarks.throughput.settings import read_arguments


def asked(*arguments: str):
    return read_arguments(["strategies=ddp", "micro=2", "rows_per_process=4", *arguments], cores=2)


def test_series_grow_as_configured():
    weak, strong = all_series(asked("processes=1,2,4"))
    assert [point.global_rows for point in weak.points] == [4, 8, 16]
    assert [point.global_rows for point in strong.points] == [16, 16, 16]
    assert [point.world for point in weak.points] == [point.world for point in strong.points] == [1, 2, 4]


def test_a_point_in_two_series_is_measured_once():
    series = all_series(asked("processes=1,2,4"))
    assert sum(len(each.points) for each in series) == 6 and len(points_of(series)) == 5


def test_nodes_multiply_processes_and_series_go_from_few_to_many():
    [series] = all_series(asked("processes=8,2", "nodes=2,1", "scaling=weak"))
    assert [(point.nodes, point.world) for point in series.points] == [(1, 2), (2, 4), (1, 8), (2, 16)]


def test_folders_are_a_function_of_the_settings():
    [point, *_] = points_of(all_series(asked()))
    assert point.name(["a"]) == point.name(["a"]) != point.name(["b"])


def test_the_micro_size_is_in_tokens_when_rows_are_packed():
    given = asked()
    [point, *_] = points_of(all_series(given))
    assert "train.micro_batch_size=2" in point.overrides(given)
    packed = replace(given, overrides=["data.packing=true"])
    assert "train.micro_batch_tokens=2" in point.overrides(packed)


def test_settings_that_are_compared_make_a_series_each():
    given = asked("seed=1,2", "processes=1,2", "scaling=weak")
    first, second = all_series(given)
    assert [point.variant for point in (*first.points, *second.points)] == [("seed=1",)] * 2 + [("seed=2",)] * 2
    assert "seed=2" in second.points[0].overrides(given) and "seed=2" in second.title
    assert first.points[0].name([]) != second.points[0].name([])


def test_a_drawing_names_a_setting_without_its_group():
    assert words(("optimizer.lr=0.001", "strategy=ddp")) == ["lr=0.001", "strategy=ddp"]
