"""Typed values reach the step: short real runs of unusual settings, compared with numbers from outside of distft.

The plain loop here has torch's own optimizers and its own schedule, smoothing, clipping and denominators. It takes from
a run the prepared rows, the first weights, and which rows each step read; each row has a unique length, which shows
it.
"""

import inspect
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distft.run import read_json
from distft.train.overfitting import rows_to_watch
from tests.support.observed_cases import CASES, HELD_OUT, LENGTHS, LENGTHS_HELD_OUT, TARGETS, TRAINED, Ran, train_all

pytestmark = pytest.mark.slow

Cases = Callable[[str], Ran]
Make = Callable[[list[Any], list[Any]], Any]  # of matrices and of vectors: an optimizer


@pytest.fixture(scope="module")
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Cases:
    """Gives what became of a case, of those that the chosen tests name."""
    texts = [inspect.getsource(item.function) for item in request.session.items if item.path == request.path]  # type: ignore[attr-defined]  # of functions alone
    named = {name for name in CASES if any(f'"{name}"' in text for text in texts)}
    named |= {CASES[name].get("name", name) for name in named}  # whose run they go on with
    cases = {name: case for name, case in CASES.items() if name in named}
    return train_all(tmp_path_factory.mktemp("worked"), cases).__getitem__


def by_hand(ran: Ran, make: Make, rates: list[float], smoothing: float = 0.0) -> dict[str, Any]:
    """Returns what a plain loop in fp64 makes of the steps of a run: losses, accuracies, norms, and the last weights.

    rates: of each step. The largest norm is the case's own.
    """
    import torch
    from torch.nn import functional as F

    from distft.data.shards import Rows
    from tests.support.reference import InDouble, dense

    rows = Rows(Path(ran.answer["plan"]["data_dir"]), "train")
    assert list(rows.lengths) == LENGTHS and list(rows.num_targets) == TARGETS
    largest = ran.overrides["train.max_grad_norm"]
    done = defaultdict(list)
    with InDouble():
        model = dense("gpt2", ran.overrides["seed"]).double().train()
        optimizer = make([p for p in model.parameters() if p.ndim >= 2], [p for p in model.parameters() if p.ndim < 2])
        for step, rate in enumerate(rates, 1):
            losses, right, targets = [], 0, 0
            for index in ran.rows(step):
                ids = torch.from_numpy(rows[index].input_ids.astype("int64"))
                logits = model(input_ids=ids[None]).logits[0, -1 - TARGETS[index] : -1]
                wanted = ids[-TARGETS[index] :]
                losses.append(F.cross_entropy(logits, wanted, reduction="sum", label_smoothing=smoothing))
                right += int((logits.argmax(-1) == wanted).sum())
                targets += len(wanted)
            loss = torch.stack(losses).sum() / targets
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), math.inf if largest == "null" else largest)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
            done["loss"].append(loss.item())
            done["accuracy"].append(right / targets)
            done["grad_norm"].append(norm.item())
    return done | {"weights": {name: p.detach() for name, p in model.named_parameters()}}


def agrees(ran: Ran, expected: dict[str, Any], rates: list[float]) -> None:
    """Holds every step's row and the last checkpoint to the plain loop."""
    import torch

    from distft.checkpoint.load import Checkpoint

    assert [row["step"] for row in ran.steps] == list(range(1, len(rates) + 1))
    assert [row["learning_rate"] for row in ran.steps] == pytest.approx(rates, rel=1e-12)
    for name in ("loss", "grad_norm"):
        assert [row[name] for row in ran.steps] == pytest.approx(expected[name], rel=2e-5), name
    assert [row["accuracy"] for row in ran.steps] == expected["accuracy"]
    largest = ran.overrides["train.max_grad_norm"]
    clips = [1.0 if largest == "null" else min(1.0, largest / norm) for norm in expected["grad_norm"]]
    assert [row["clip_coefficient"] for row in ran.steps] == pytest.approx(clips, rel=1e-4)
    checkpoint = Checkpoint(ran.run.checkpoints / f"step-{len(rates):08d}")
    for name, weight in expected["weights"].items():
        mine = checkpoint.read(name, tuple(weight.shape), 0, weight.numel()).view(weight.shape)
        torch.testing.assert_close(mine.double(), weight, rtol=0, atol=2e-5, msg=lambda text, n=name: f"{n}: {text}")


def test_adamw_warm_up_clipping_and_smoothing_match_a_plain_loop(ran: Cases):
    import torch

    case = ran("adamw")
    rates = [3e-3 * step / 3 for step in (1, 2, 3)] + [3e-3 * (1 - 0.75 * (step - 3) / 5) for step in range(4, 9)]

    def make(matrices: list[Any], vectors: list[Any]) -> Any:
        groups = [{"params": matrices, "weight_decay": 0.3}, {"params": vectors, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, betas=(0.7, 0.9), eps=1e-4)

    assert ran("adamw").overrides["train.max_grad_norm"] < min(row["grad_norm"] for row in case.steps)
    agrees(case, by_hand(case, make, rates, smoothing=0.1), rates)


def test_sgd_with_momentum_unclipped_matches_a_plain_loop(ran: Cases):
    import torch

    case = ran("sgd")
    rates = [0.5, 0.5, 0.25, 0.0]  # one step of warm-up, and the last two fall

    def make(matrices: list[Any], vectors: list[Any]) -> Any:
        return torch.optim.SGD([*matrices, *vectors], momentum=0.6, nesterov=True)

    agrees(case, by_hand(case, make, rates), rates)


def test_a_clipped_step_moves_the_weights_by_rate_times_norm(ran: Cases):
    import torch

    case = ran("clipped")
    expected = by_hand(case, lambda *both: torch.optim.SGD([*both[0], *both[1]]), [2.0])
    agrees(case, expected, [2.0])
    assert case.steps[0]["clip_coefficient"] == pytest.approx(0.125 / case.steps[0]["grad_norm"], rel=1e-5)


def test_the_learning_rate_follows_half_a_cosine(ran: Cases):
    fallen = [(1 - math.cos(math.pi * (step - 2) / 4)) / 2 for step in range(3, 7)]
    rates = [0.5e-3, 1e-3, *(1e-3 * (1 - 0.5 * each) for each in fallen)]
    assert [row["learning_rate"] for row in ran("cosine").steps] == pytest.approx(rates, rel=1e-12)


def test_row_steps_read_each_row_once_per_epoch(ran: Cases):
    """Two and a half epochs of 12 rows by 8: the last step is short."""
    case = ran("sgd")
    taken = [case.rows(step) for step in range(1, 5)]
    assert [len(rows) for rows in taken] == [8, 8, 8, 6] and len(case.steps) == 4
    assert sorted(taken[0] + taken[1] + taken[2]) == sorted(2 * list(range(TRAINED)))
    assert len(set(taken[0])) == 8 and len(set(taken[3])) == 6
    assert max(len(each["lengths"]) for each in case.forwards("step")) == 2


def test_token_steps_and_micro_batches_are_maximally_full(ran: Cases):
    case = ran("tokens")
    taken = [case.rows(step) for step in range(1, 8)]
    tokens = [sum(LENGTHS[row] for row in rows) for rows in taken]
    assert len(case.steps) == 7 and max(tokens) <= 115
    assert all(mine + min(LENGTHS[row] for row in rows) > 0 for mine, rows in zip(tokens, taken, strict=True))
    assert min(tokens[:-1]) + max(LENGTHS) > 115, "a step that could take one more row takes it"
    assert len(set(map(len, taken))) > 1
    assert 48 < max(sum(each["lengths"]) for each in case.forwards("step")) <= 60, "more than data.max_length"
    assert max(len(each["lengths"]) for each in case.forwards("step")) > 1


@pytest.mark.parametrize("name", ["adamw", "sgd", "tokens", "lora"])
def test_tokens_are_the_sum_of_row_lengths(ran: Cases, name: str):
    case = ran(name)
    assert case.answer["plan"]["tokens"] == sum(row["tokens"] for row in case.steps), "as was planned"
    for row in case.steps:
        read = case.rows(row["step"])
        assert row["tokens"] == sum(LENGTHS[index] for index in read)
        assert row["target_tokens"] == sum(TARGETS[index] for index in read)
        assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"], rel=1e-9)
        assert 0.1 < row["peak_memory_gib"] < 20


@pytest.mark.parametrize(("name", "passes"), [("adamw", 3), ("lora", 2)])
def test_flops_follow_the_formula(ran: Cases, name: str, passes: int):
    """Forward: 2 for each weight of a layer's matrices and token, 4 for each pair of a token and one it sees and
    dimension, 2 for each weight of the head and target. Training makes 3 times that; with a frozen model 2 times."""
    case, hidden, layers, vocabulary = ran(name), 64, 2, 512
    pairs = sum(length * (length + 1) / 2 for length in LENGTHS)
    forward = 2 * layers * 12 * hidden**2 * sum(LENGTHS)  # 4 x 64 x 64 of attention, 8 x 64 x 64 of the MLP
    forward += 4 * hidden * layers * pairs + 2 * vocabulary * hidden * sum(TARGETS)
    peak = read_json(case.run.path / "effective.json")["peak"]["flops"]
    for row in case.steps:
        assert row["flops"] == pytest.approx(passes * forward, rel=1e-12)
        assert row["mfu"] == pytest.approx(row["flops"] / (row["seconds"] * 2 * peak), rel=1e-9)


def test_every_forward_of_a_step_has_its_own_seed(ran: Cases):
    """Of step, micro-batch and rank; a run made again has the same, one of another seed none of them."""
    first, again, other = (ran(name).forwards("step") for name in ("dropout", "again", "other"))
    assert len({each["step"] for each in first}) == 3 and len(first) == 3 * 2 * 3
    assert len({each["seed"] for each in first}) == len(first)
    assert [each["seed"] for each in first] == [each["seed"] for each in again]
    assert not {each["seed"] for each in first} & {each["seed"] for each in other}


def test_dropout_changes_training_and_no_evaluation(ran: Cases):
    losses = {name: [row["loss"] for row in ran(name).steps] for name in ("dropout", "again", "other")}
    assert losses["dropout"] == losses["again"]
    assert losses["dropout"][0] != pytest.approx(ran("patience").steps[0]["loss"], rel=1e-5)
    held_out = [ran(name).evaluations[0]["loss"] for name in ("dropout", "adamw", "patience")]
    assert held_out == pytest.approx([held_out[0]] * 3, rel=1e-6)
    plain, dropped = ran("lora"), ran("dropout of adapters")
    assert dropped.steps[0]["loss"] == pytest.approx(plain.steps[0]["loss"], rel=1e-6), "adapters begin at zero"
    assert dropped.steps[0]["grad_norm"] != pytest.approx(plain.steps[0]["grad_norm"], rel=1e-3)


def test_the_seed_decides_the_first_weights(ran: Cases):
    losses = [ran(name).evaluations[0]["loss"] for name in ("again", "other")]
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


def test_the_seed_decides_which_rows_a_step_reads(ran: Cases):
    assert ran("other").rows(1) != ran("rewind").rows(1), "four of twelve"


def test_evaluations_happen_exactly_when_due(ran: Cases):
    assert [row["step"] for row in ran("adamw").evaluations] == [0, 3, 6, 8]
    assert [row["step"] for row in ran("saved").evaluations] == [2, 4]
    assert ran("sgd").evaluations == []


def test_evaluation_reads_every_row_once_in_its_batch_size(ran: Cases):
    import torch
    from torch.nn import functional as F

    from distft.data.shards import Rows
    from tests.support.reference import dense

    case = ran("adamw")
    forwards = case.forwards("eval", 3)
    assert sorted(length for each in forwards for length in each["lengths"]) == LENGTHS_HELD_OUT
    assert max(len(each["lengths"]) for each in forwards) == 4
    assert max(len(each["lengths"]) for each in ran("patience").forwards("eval", 2)) == 2, "as in training"
    rows, model = Rows(Path(case.answer["plan"]["data_dir"]), "eval"), dense("gpt2", 7).eval()
    losses, right = [], 0
    for index, targets in enumerate(TARGETS[:HELD_OUT]):
        ids = torch.from_numpy(rows[index].input_ids.astype("int64"))
        logits = model(input_ids=ids[None]).logits[0, -1 - targets : -1].double()
        losses.append(F.cross_entropy(logits, ids[-targets:], reduction="sum").item())
        right += int((logits.argmax(-1) == ids[-targets:]).sum())
    row = case.evaluations[0]
    assert row["target_tokens"] == sum(TARGETS[:HELD_OUT])
    assert row["loss"] == pytest.approx(sum(losses) / row["target_tokens"], rel=1e-5)
    assert row["perplexity"] == pytest.approx(math.exp(row["loss"]), rel=1e-9)
    assert row["accuracy"] == right / row["target_tokens"]


def test_the_oom_probe_runs_once_after_the_first_step(ran: Cases):
    for name, first_pass in (("adamw", [1]), ("sgd", [1, 2]), ("clipped", [1])):
        case = ran(name)
        tried = case.forwards("longest")
        assert [each["step"] for each in tried] == [1, 1], "each rank, once"
        sizes = [sum(each["lengths"]) for step in first_pass for each in case.forwards("step", step)]
        assert [sum(each["lengths"]) for each in tried] == [max(sizes)] * 2


def test_activation_checkpointing_runs_the_layers_twice(ran: Cases):
    for rank in ran("dropout").answer["ranks"]:
        again = ran("again").answer["ranks"][0]["mlps"].count(2)
        assert rank["mlps"].count(2) == 2 * again == 4 * 3, "2 layers, 3 micro-batches, forward and backward"


def test_checkpoints_are_kept_as_configured(ran: Cases):
    kept = ran("kept")
    assert kept.saved() == [3, 6, 8]
    assert [save["step"] for save in kept.answer["ranks"][1]["saves"]] == list(range(1, 9))
    assert all(save["in_background"] for rank in kept.answer["ranks"] for save in rank["saves"])
    assert not any(save["in_background"] for save in ran("saved").answer["ranks"][0]["saves"])
    assert ran("saved").saved() == [2, 4, 5] and (ran("saved").run.checkpoints / "latest").resolve().name[-1] == "5"


def test_the_best_checkpoint_has_the_lowest_held_out_loss(ran: Cases):
    case = ran("best")
    losses = {row["step"]: row["loss"] for row in case.evaluations if row["step"]}
    lowest = min(losses, key=lambda step: losses[step])
    assert 1 <= lowest < 7 and losses[lowest] < case.evaluations[0]["loss"], losses
    assert (case.run.checkpoints / "best").resolve().name == f"step-{lowest:08d}"
    assert case.saved() == [lowest, 8]


def test_the_metric_and_the_goal_decide_what_the_best_is(ran: Cases):
    for name, metric in (("metric", "accuracy"), ("goal", "loss")):
        case = ran(name)
        values = {row["step"]: row[metric] for row in case.evaluations}
        losses = {row["step"]: row["loss"] for row in case.evaluations}
        highest = max(values, key=lambda step: (values[step], -step))
        assert highest not in (0, 8, min(losses, key=lambda step: losses[step]))
        assert (case.run.checkpoints / "best").resolve().name == f"step-{highest:08d}"
        assert case.answer["status"]["best"] == {"step": highest, "value": values[highest], "metric": metric}
        assert case.saved() == [highest, 8]


def test_noise_and_dropout_reach_training_alone(ran: Cases):
    plain = ran("plain")
    for name, key, value in (("noise", "neftune_alpha", 7), ("dropped", "dropout", {"0.3": 7})):
        effective = read_json(ran(name).run.path / "effective.json")
        assert effective[key] == value and not read_json(plain.run.path / "effective.json")[key]
        assert ran(name).evaluations[0]["loss"] == plain.evaluations[0]["loss"]
        assert abs(ran(name).steps[0]["loss"] - plain.steps[0]["loss"]) > 1e-4


def test_the_average_of_the_weights_is_evaluated(ran: Cases):
    plain, averaged, trained = ran("plain"), ran("averaged"), ran("not averaged")
    losses = [[row["loss"] for row in case.evaluations] for case in (plain, averaged, trained)]
    assert losses[0] == losses[2] and losses[1][:2] == losses[0][:2], "it starts as the weights after step 1"
    assert losses[1][2] != losses[0][2]
    assert [row["loss"] for row in averaged.steps] == [row["loss"] for row in plain.steps]


def test_training_rows_are_evaluated_as_held_out_rows_are(ran: Cases):
    watched = list(ran("watched").run.read_metrics("train_eval"))
    assert [row["step"] for row in watched] == [row["step"] for row in ran("watched").evaluations] == [0, 1, 2]
    rows = rows_to_watch(TRAINED, 5, seed=7)
    assert {row["target_tokens"] for row in watched} == {sum(TARGETS[row] for row in rows)}
    for step in (1, 2):
        read = [each["lengths"] for each in ran("watched").forwards("eval", step)]
        lengths = sorted(length for each in read for length in each if length > 1)
        assert lengths == sorted([*LENGTHS_HELD_OUT, *(LENGTHS[row] for row in rows)])


def test_saves_by_the_clock_and_of_the_best_follow_the_config(ran: Cases):
    assert ran("cosine").saved() == [1, 2, 3, 4, 5, 6] and ran("lora").saved() == [1]
    assert ran("better").saved() == [4], "each evaluation was the best, and checkpoint.save_best=false"
    assert [save["step"] for save in ran("min_delta").answer["ranks"][0]["saves"]] == [1, 2]


def test_replicas_are_checked_at_the_interval_and_at_saves(ran: Cases):
    for rank in ran("looked").answer["ranks"]:
        assert rank["looks"] == [0, 2, 4, 5]


def test_early_stopping_waits_for_its_patience(ran: Cases):
    for name, step in (("patience", 3), ("min_delta", 2), ("resumed again", 4)):
        status = ran(name).answer["status"]
        assert (status["state"], status["step"]) == ("stopped_early", step), name
    assert ran("min_delta").evaluations[-1]["loss"] < ran("min_delta").evaluations[0]["loss"] - 0.1
    assert ran("better").answer["status"]["state"] == "completed"


def test_a_stopped_run_continues_after_its_checkpoint(ran: Cases):
    first, second = ran("resumed"), ran("resumed again")
    assert first.answer["status"]["state"] == "preempted" and first.answer["status"]["step"] == 2
    assert {each["step"] for each in second.forwards("step")} == {3, 4}
    assert [row["step"] for row in second.steps] == [1, 2, 3, 4]
    assert [row["step"] for row in second.evaluations] == [0, 1, 2, 3, 4]


def test_a_run_restarts_or_continues_from_a_path_as_configured(ran: Cases):
    assert {each["step"] for each in ran("never").forwards("step")} == {1}
    assert {each["step"] for each in ran("from a path").forwards("step")} == {5}
    assert ran("from a path").saved() == [5] and ran("saved").saved() == [2, 4, 5]


def test_a_non_finite_step_stops_skips_or_rewinds(ran: Cases):
    stop, skip, rewind = ran("stop"), ran("skip"), ran("rewind")
    assert "step 2 is not finite" in stop.answer["error"] and "train.on_non_finite=stop" in stop.answer["error"]
    assert "number 2 in a row" in skip.answer["error"]
    assert [row["step"] for row in skip.steps if row.get("skipped")] == [2, 4, 5]
    assert "has gone back 1 times" in rewind.answer["error"]
    assert rewind.answer["after"]["base_step"] == 2 and rewind.answer["after"]["base_row"] == 3 * 4
    assert sorted(rewind.rows(3)) != sorted(2 * rewind.rows(3)[:4]), "the step made again reads other rows"


def test_adapters_are_scaled_by_alpha_over_rank(ran: Cases):
    """At the first step, when B is zero, the gradient is as large as the scale that B's output has."""
    norms = [ran(name).steps[0]["grad_norm"] for name in ("lora", "alpha")]
    assert norms[1] == pytest.approx(norms[0] * 8 / 32, rel=1e-5)
    layers = {"c_attn": (64, 192), "c_proj of attention": (64, 64), "c_fc": (64, 256), "c_proj": (256, 64)}
    assert ran("lora").answer["plan"]["adapters"] == 2 * 3 * sum(map(sum, layers.values()))


def test_run_folder_cache_and_files_are_those_configured(ran: Cases):
    case = ran("staged")
    folder = case.run.path.parents[1]
    assert case.run.path == folder / "runs" / "staged"
    assert Path(case.answer["plan"]["data_dir"]).parents[1].resolve() == folder / "of-small-shards"
    assert len(list((folder / "disk").glob("distft-*/[!.]*"))) == 1, "the rows, a copy of them"
    lengths = {length for each in case.forwards("step") for length in each["lengths"]}
    assert lengths == {*LENGTHS[:6], 42, 44}, "of the first shard and the last, in which 45 tokens are cut to 44"
    assert case.answer["plan"]["rows"] == 8


IN_FORCE = ("bf16", "hsdp", "adamw", "sgd", "offload")


def test_settings_in_force_are_those_typed(ran: Cases):
    """Of "bf16", "hsdp", "adamw", "sgd", "offload"."""
    effective = {name: read_json(ran(name).run.path / "effective.json") for name in IN_FORCE}
    assert effective["bf16"]["engine"]["compute_dtype"] == "torch.bfloat16"
    assert effective["bf16"]["engine"]["stage"] == 3 and effective["bf16"]["engine"]["overlap_comm"] is True
    assert effective["offload"]["engine"]["offload"] is True and effective["bf16"]["engine"]["offload"] is False
    assert effective["hsdp"]["optimizer"]["fused"] is False and effective["adamw"]["optimizer"]["fused"] is True
    assert effective["hsdp"]["attention"]["in_force"] == "eager"
    live = {name: ran(name).answer["ranks"][1]["attention"] for name in ("hsdp", "sgd")}
    assert live["hsdp"] == ["eager"] and live["sgd"] != ["eager"]
    assert effective["bf16"]["engine"]["reduce_bucket_size"] == 4321
    assert (effective["hsdp"]["engine"]["replicas"], effective["hsdp"]["engine"]["shards"]) == (2, 1)
    assert (effective["sgd"]["engine"]["replicas"], effective["sgd"]["engine"]["shards"]) == (1, 2)
    assert (effective["adamw"]["engine"]["replicas"], effective["adamw"]["engine"]["shards"]) == (2, 1)
    assert effective["adamw"]["engine"]["compute_dtype"] == "torch.float32"
    assert effective["adamw"]["optimizer"]["betas"] == [0.7, 0.9] and effective["sgd"]["optimizer"]["nesterov"] is True
    assert ran("compiled").answer["compiled"] == [True, True]
    assert (ran("dropout").run.profile / "rank-1.json.gz").is_file() and not ran("again").run.profile.exists()
