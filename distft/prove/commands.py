"""Checks in programs of their own: the cost of the parts of a step, collectives between devices, the doctor."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distft.prove import jobs
from distft.prove.place import Child, Place
from distft.prove.proof import Line, failed, not_run, skipped
from distft.prove.series import ARCHITECTURE, COMMON, ROWS, batch_of
from distft.run import read_json

MICRO_SECONDS, COLLECTIVES_SECONDS, DOCTOR_SECONDS = 25.0, 20.0, 20.0  # least time to start each
_REFERENCES = {
    "micro.product": "reference: 769 to 798 TFLOP/s on one H200",
    "micro.copy": "reference: 4.3 TB/s on one H200",
}


def micro_lines(place: Place, words: Sequence[str]) -> list[str]:
    """Returns the names of the measurements of distft.prove.micro."""
    kernels = ("sdpa", "cudnn", "flash", "varlen")
    names = ["product", "copy"]
    names += [f"attention.{layout}.{kernel}" for layout in ("one", "eight", "forty") for kernel in kernels]
    names += [f"first_call.{kernel}" for kernel in ("cudnn", "flash")]
    chunks = ("as_trained", "64_mib", "512_mib", "2048_mib")
    names += [f"loss.{head}.{chunk}" for head in ("head", "frozen_head") for chunk in chunks]
    names += ["adamw", *(f"transfer.{way}" for way in ("pin", "to_pinned", "to_pageable", "from_pinned"))]
    return [f"micro.{name}" for name in names]


def micro(place: Place, words: Sequence[str]) -> Iterator[Line]:
    """Yields the cost of each part; a part that cannot be measured fails with its error."""
    child = place.start("micro", "distft.prove.micro")
    code = child.wait(place.seconds_left)
    answers = list(answers_of(child))
    for answer in answers:
        yield from of_micro(place, answer)
    known = {f"micro.{answer['name']}" for answer in answers if "name" in answer}
    errors = " ".join(answer["error"] for answer in answers if "part" in answer)
    for name in micro_lines(place, words):
        if name in known:
            continue
        if name.startswith("micro.attention.") and place.machine.device != "cuda":
            yield skipped(name, "no CUDA device")
        elif code is None:
            yield not_run(name, "no time was left")
        else:
            yield failed(name, errors or f"exit code {code}: {child.last_words(2)}"[:400])


def of_micro(place: Place, answer: Mapping[str, Any]) -> Iterator[Line]:
    """Yields the line of a measurement of distft.prove.micro."""
    if "name" not in answer:
        return
    name = f"micro.{answer['name']}"
    if "lacks" in answer:
        yield skipped(name, answer["lacks"])
    elif "error" in answer:
        yield failed(name, answer["error"])
    else:
        more = {key: value for key, value in answer.items() if key not in ("name", "value", "unit", "text")}
        reference = _REFERENCES.get(name) if place.machine.has_accelerator else None
        text = answer["text"] + (f"; {reference}" if reference else "")
        yield Line(name, "pass", answer["value"], answer["unit"], detail={"text": text, **more})


def answers_of(child: Child) -> Iterator[Mapping[str, Any]]:
    """Yields the JSON objects that a program has printed, one per line, between the output of libraries."""
    for line in child.log.read_text(errors="replace").splitlines():
        if line.startswith("{"):
            try:
                yield json.loads(line)
            except ValueError:  # cut off when the program was killed
                continue


def collective_lines(place: Place, words: Sequence[str]) -> list[str]:
    return [f"collectives.{name}" for name in ("all_reduce", "all_gather", "reduce_scatter")]


def collectives(place: Place, words: Sequence[str]) -> Iterator[Line]:
    """Yields the bus bandwidth of the collectives of the strategies, between all devices of this machine."""
    if place.machine.world < 2:
        what = "one accelerator" if place.machine.has_accelerator else "one core"
        yield from (skipped(name, f"only {what}") for name in collective_lines(place, words))
        return
    given = (*COMMON, *batch_of(place))
    run = jobs.freeze(place, "collectives", "distft.prove.bandwidth.work", given, ROWS, ARCHITECTURE)
    child = jobs.start(place, run)
    code = child.wait(place.seconds_left)
    if code != 0:
        text = "no time was left" if code is None else jobs.why(run, 1, child)
        make = not_run if code is None else failed
        yield from (make(name, text) for name in collective_lines(place, words))
        return
    for name, found in read_json(run.path / jobs.MEASURED).items():
        by_size = {f"GB/s at {mib} MiB": rate for mib, rate in found["by_size"]}
        text = f"bus bandwidth of {found['backend']} between {place.machine.world} processes, as nccl-tests counts it"
        best = max(rate for _, rate in found["by_size"])
        yield Line(f"collectives.{name}", "pass", best, "GB/s", detail={"text": text, **by_size})


def doctor_lines(place: Place, words: Sequence[str]) -> list[str]:
    return ["doctor"]


def doctor(place: Place, words: Sequence[str]) -> Iterator[Line]:
    """Yields whether `distft doctor` finds a problem with this machine or install."""
    found = place.work / "doctor.json"
    folders = (f"runs_dir={place.work / 'runs'}", f"cache_dir={place.work / 'cache'}")
    child = place.start("doctor", "distft.doctor", f"out={found}", *folders)
    code = child.wait(min(120.0, place.seconds_left))
    if code is None:
        yield not_run("doctor", "it did not end in time")
    elif not found.is_file():
        yield failed("doctor", f"exit code {code}: {child.last_words(2)}"[:400])
    else:
        findings = read_json(found)
        problems = [f"{each['check']}: {each['seen']}" for each in findings if each["state"] == "problem"]
        warnings = [f"{each['check']}: {each['seen']}" for each in findings if each["state"] == "warning"]
        text = "; ".join(problems) or f"problems found, of {len(findings)} findings"
        expected, status = "0", "fail" if problems else "pass"
        more = {"text": text, "warnings": "; ".join(warnings)}
        yield Line("doctor", status, len(problems), "problems", expected, detail=more)
