"""The headline states the result of a sweep, with its uncertainty."""

from dataclasses import replace

from distft.report.sweep.headline import best_elsewhere, counts, decimals, doubts, headline
from distft.report.sweep.settings import Difference, Interval, rank
from tests.report.sweep.conftest import Run, of_seeds

RATE = ["optimizer.lr", "seed"]


def said(sweep) -> str:
    return "".join(headline(sweep, rank(sweep)))


def test_two_settings_that_differ_significantly(make_sweep):
    sweep = make_sweep([*of_seeds(1e-4, 1.0, 1.2, 1.4), *of_seeds(1e-3, 1.1, 1.3, 1.53)], RATE)
    assert said(sweep) == (
        "optimizer.lr=1e-4 has the lowest held-out loss of 2 settings: 1.2000, the mean of 3 seeds, 95 % interval "
        "0.7032 to 1.6968; it differs significantly from the next, optimizer.lr=0.001, which is 0.1100 higher "
        "(95 % interval 0.0670 to 0.1530, paired over 3 seeds)."
    )


def test_two_settings_that_do_not_differ_significantly(make_sweep):
    assert "it does not differ significantly from the next, optimizer.lr=0.001, which is" in said(
        make_sweep([*of_seeds(1e-4, 1.0, 1.2), *of_seeds(1e-3, 1.4, 1.1)], RATE)
    )


def test_one_seed_gives_no_interval_and_a_note(make_sweep):
    text = said(make_sweep([*of_seeds(1e-4, 1.0), *of_seeds(1e-3, 1.5)], RATE))
    assert "1.0000, from one seed, so without an interval; the next, optimizer.lr=0.001, is 0.5000 higher" in text
    assert text.endswith("whether that is chance is unknown.")


def test_the_next_setting_is_named_by_its_differing_values(make_sweep):
    runs = [
        Run({"optimizer.lr": 1e-4, "schedule": word}, (3.0, loss)) for word, loss in (("linear", 2.0), ("cosine", 1.0))
    ]
    assert "the next, schedule=linear, is" in said(make_sweep(runs, ["optimizer.lr", "schedule"]))


def test_one_setting_is_compared_with_nothing(make_sweep):
    assert said(make_sweep(of_seeds(1e-4, 1.0), RATE)).endswith("; there is no other.")
    text = said(make_sweep([*of_seeds(1e-4, 1.0), Run({"optimizer.lr": 1e-3}, state="running")], RATE))
    assert text.endswith("; no other has finished with an evaluation.")


def test_where_nothing_is_ranked_the_reason_is_given(make_sweep):
    failed, unmeasured = Run({}, (), "failed"), Run({}, ())
    for runs, why in (
        ([], "the sweep has no runs"),
        ([failed], "the run failed"),
        ([failed, failed], "every run failed"),
        ([unmeasured, failed], "evaluated no held-out rows (data.eval)"),
        ([failed, Run({}, state="pending")], "ranked yet: no run has finished"),
    ):
        assert why in said(make_sweep(runs, []))


def test_caveats_are_reported(make_sweep):
    worse = [Run({"optimizer.lr": 1e-4, "seed": seed}, (2.0, 3.0)) for seed in (0, 1)]
    sweep = make_sweep([*worse, *of_seeds(1e-3, 5.0), Run({"optimizer.lr": 1}, state="pending")], RATE)
    text = " ".join(doubts(sweep, rank(sweep)))
    assert "1 of 4 runs have not finished" in text
    assert "The best run was best before its first step: training did not improve it." in text
    assert "different numbers of seeds" in text
    assert "target tokens" not in text


def test_losses_over_other_rows_get_a_warning(make_sweep):
    sweep = make_sweep([*of_seeds(1e-4, 1.0), *of_seeds(1e-3, 5.0)], RATE)
    other = replace(sweep, jobs=[sweep.jobs[0], replace(sweep.jobs[1], eval_tokens=1412)])
    assert any("on 1,300 to 1,412 held-out target tokens" in doubt for doubt in doubts(other, rank(other)))


def test_a_lucky_run_of_another_setting_is_named(make_sweep):
    ranking = rank(make_sweep([*of_seeds(1e-3, 0.5, 2.5), *of_seeds(1e-4, 1.3, 1.1)], RATE))
    lucky = best_elsewhere(ranking)
    assert lucky is not None and lucky.folder == "00"
    assert best_elsewhere(ranking[1:]) is None


def test_states_are_counted(make_sweep):
    states = ["failed", "completed", "pending", "completed", "stopped_early", "running", "preempted"]
    expected = [("completed", 2), ("stopped_early", 1), ("running", 1), ("pending", 1), ("preempted", 1), ("failed", 1)]
    assert counts(make_sweep([Run({}, state=state) for state in states], [])) == expected


def test_a_difference_and_its_interval_have_as_many_decimals():
    assert decimals(Difference(0.01234, Interval(-0.00012, 0.0248), "")) == ("0.0123", "-0.0001 to 0.0248")
    assert decimals(Difference(1.2e-5, Interval(-2e-6, 2.6e-5), "")) == ("1.2e-05", "-2.0e-06 to 2.6e-05")
