"""The cost of the parts of a step on this device: `python -m distft.prove.micro` prints one JSON object per line.

On a CPU it uses small shapes, and skips kernels that exist only for accelerators. After a part that fails, the others
still run.
"""

import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from distft.losses import cross_entropy
from distft.models.attention.sdpa import documents_sdpa
from distft.runtime.device import synchronize
from distft.runtime.process_group import device_of

BF16 = torch.bfloat16
Answer = Mapping[str, object]  # name, value, unit, text and further numbers; or name and lacks, or name and error


class Bench:
    """Times functions on the device."""

    def __init__(self) -> None:
        self.device = device_of(0)
        self.on_device = self.device.type != "cpu"
        self.cuda = self.device.type == "cuda"

    def size(self, full: int, small: int) -> int:
        return full if self.on_device else small

    def ms(self, act: Callable[[], object], rounds: int = 5, warm: int = 2) -> float:
        """Returns the median milliseconds of `act`, by events on the device or by the clock of a CPU."""
        for _ in range(warm):
            act()
        times = []
        for _ in range(rounds):
            if not self.on_device:
                began = time.perf_counter()
                act()
                times.append((time.perf_counter() - began) * 1e3)
                continue
            first, last = (torch.Event(self.device, enable_timing=True) for _ in range(2))
            first.record()
            act()
            last.record()
            last.synchronize()
            times.append(first.elapsed_time(last))
        return sorted(times)[len(times) // 2]

    def draw(self, *shape: int, dtype: torch.dtype = BF16, grad: bool = False) -> torch.Tensor:
        return torch.randn(*shape, device=self.device, dtype=dtype).requires_grad_(grad)


def product(bench: Bench) -> Iterator[Answer]:
    """Measures the peak rate of matrix products in bf16, and the bandwidth of copies in memory."""
    n = bench.size(8192, 512)
    left, right = bench.draw(n, n), bench.draw(n, n)
    ms = bench.ms(lambda: left @ right)
    text = f"product of {n}x{n} matrices in bf16: the upper bound of a step"
    yield {"name": "product", "value": 2 * n**3 / ms / 1e9, "unit": "TFLOP/s", "text": text}
    source = bench.draw(bench.size(2**29, 2**22))
    target = torch.empty_like(source)
    ms = bench.ms(lambda: target.copy_(source))
    size = source.nbytes / 2**20
    yield {"name": "copy", "value": 2 * source.nbytes / ms / 1e9, "unit": "TB/s",
           "text": f"read and written while {size:,.0f} MiB are copied on the device"}  # fmt: skip


def cut(total: int, parts: int) -> list[int]:
    """Returns unequal lengths with the sum `total`."""
    borders = sorted(random.Random(0).sample(range(1, total), parts - 1))
    return [b - a for a, b in zip([0, *borders], [*borders, total], strict=True)]


LAYOUTS = {"one": 1, "eight": 8, "forty": 40}  # documents in a micro-batch
BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}


def attention(bench: Bench) -> Iterator[Answer]:
    """Measures forward and backward of a micro-batch with each kernel, for several layouts of documents."""
    total = bench.size(8192, 256)
    heads, groups, width = (32, 8, 128) if bench.on_device else (4, 2, 32)
    query, key, value = (bench.draw(1, n, total, width, grad=True) for n in (heads, groups, groups))
    for layout, count in LAYOUTS.items():
        lengths = cut(total, count)
        flops = 3.5 * 4 * heads * width * sum(n * (n + 1) / 2 for n in lengths)
        about = f"{total:,} tokens in {count} documents, {heads} heads of {width}, forward and backward"
        for kernel, act in attention_of(bench, query, key, value, lengths).items():
            name = f"attention.{layout}.{kernel}"
            try:
                ms = bench.ms(act, rounds=3, warm=2)
            except Exception as error:
                yield {"name": name, "error": f"{type(error).__name__}: {error}"[:300]}
                continue
            yield {"name": name, "value": ms, "unit": "ms", "text": about, "tflops": flops / ms / 1e9}


def attention_of(
    bench: Bench, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int]
) -> dict[str, Callable[[], object]]:
    """Returns kernel -> its forward and backward; `sdpa` is torch's default choice."""

    def by_document() -> None:
        out, _ = documents_sdpa(torch.nn.Identity(), query, key, value, None, document_lengths=lengths)
        out.backward(torch.ones_like(out))

    def with_backend(backend: SDPBackend) -> Callable[[], None]:
        def act() -> None:
            with sdpa_kernel(backend):
                by_document()

        return act

    found: dict[str, Callable[[], object]] = {"sdpa": by_document}
    if bench.cuda:
        from distft.models.attention.varlen import documents_varlen

        borders = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32, device=bench.device)

        def packed() -> None:
            out, _ = documents_varlen(
                torch.nn.Identity(), query, key, value, None, cu_seq_lens_q=borders, max_length_q=max(lengths)
            )
            out.backward(torch.ones_like(out))

        found |= {name: with_backend(backend) for name, backend in BACKENDS.items()} | {"varlen": packed}
    return found


def first_call(bench: Bench) -> Iterator[Answer]:
    """Measures the first call with each new length: some backends build a plan for each."""
    for name, backend in BACKENDS.items():
        if not bench.cuda:
            yield {"name": f"first_call.{name}", "lacks": "no CUDA device"}
            continue
        times = []
        with sdpa_kernel(backend):
            for length in range(301, 313):
                query, key, value = (bench.draw(1, n, length, 128, grad=True) for n in (32, 8, 8))
                synchronize(bench.device)
                began = time.perf_counter()
                out = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
                out.backward(torch.ones_like(out))
                synchronize(bench.device)
                times.append((time.perf_counter() - began) * 1e3)
        text = "median of forward and backward of ten lengths, each the first of its kind"
        yield {
            "name": f"first_call.{name}",
            "value": sorted(times[2:])[5],
            "unit": "ms",
            "text": text,
            "most": max(times),
        }


CHUNKS_MIB = (64, 512, 2048)


def loss(bench: Bench) -> Iterator[Answer]:
    """Measures the loss of a micro-batch with the head of Llama 3, as trained and by size of the chunks of logits."""
    tokens, width, vocabulary = (8192, 4096, 128256) if bench.on_device else (256, 64, 8192)
    hidden = bench.draw(tokens, width, grad=True)
    weight = (torch.randn(vocabulary, width, device=bench.device) * 0.02).to(BF16).requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,), device=bench.device)

    def as_it_trains() -> None:
        value, _ = cross_entropy.Projected(targets)(hidden, weight, None)
        value.backward()
        hidden.grad = weight.grad = None

    for frozen in (False, True):
        weight.requires_grad_(not frozen)
        kind, flops = "frozen_head" if frozen else "head", (2 if frozen else 3) * 2 * tokens * width * vocabulary
        about = f"{tokens:,} tokens, width {width:,}, vocabulary {vocabulary:,}"
        sizes = {"as_trained": cross_entropy.rows_of_chunk(vocabulary, bench.device)}
        for mib in CHUNKS_MIB:
            of_cpu = max(1, tokens * mib // CHUNKS_MIB[-1])
            sizes[f"{mib}_mib"] = max(1, mib * 2**20 // (4 * vocabulary)) if bench.on_device else of_cpu
        for name, rows in sizes.items():
            act: Callable[[], object] = as_it_trains
            if name != "as_trained":
                act = partial(chunks, hidden.detach(), weight.detach(), targets, rows, frozen)
            ms = bench.ms(act, rounds=3, warm=1)
            text = f"{about}, chunks of {min(rows, tokens):,} rows"
            yield {"name": f"loss.{kind}.{name}", "value": ms, "unit": "ms", "text": text, "tflops": flops / ms / 1e9}


def chunks(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, rows: int, frozen: bool) -> None:
    """Computes what the loss computes for each chunk: logits, their gradient, and the products with it."""
    of_hidden = torch.empty_like(hidden)
    of_weight = torch.zeros_like(weight, dtype=torch.float32)
    for start in range(0, len(hidden), rows):
        chunk, at = hidden[start : start + rows], targets[start : start + rows]
        logits = chunk @ weight.T
        cross_entropy.argmax_of(logits)
        _, gradient = cross_entropy.of_chunk(logits, at, 0.0, None, weight.dtype)
        assert gradient is not None
        torch.mm(gradient, weight, out=of_hidden[start : start + rows])
        if frozen:
            continue
        if weight.device.type == "cuda":
            torch.addmm(of_weight, gradient.T, chunk, out_dtype=torch.float32, out=of_weight)
        else:
            of_weight += gradient.T @ chunk


def adamw(bench: Bench) -> Iterator[Answer]:
    """Measures a step of AdamW, which is bound by memory: 28 bytes per parameter."""
    weight = torch.nn.Parameter(bench.draw(bench.size(500_000_000, 1_000_000), dtype=torch.float32))
    weight.grad = torch.randn_like(weight)
    ms = bench.ms(torch.optim.AdamW([weight], fused=True).step)
    text = f"fused AdamW on {weight.numel():,} parameters in fp32"
    yield {"name": "adamw", "value": ms, "unit": "ms", "text": text, "tb_per_second": 28 * weight.numel() / ms / 1e9}


def transfers(bench: Bench) -> Iterator[Answer]:
    """Measures transfers between host and device, as saving, loading and prefetching use them."""
    if not bench.on_device:
        for way in ("pin", "to_pinned", "to_pageable", "from_pinned"):
            yield {"name": f"transfer.{way}", "lacks": "no accelerator"}
        return
    on_device = bench.draw(2**28, dtype=torch.float32)  # 1 GiB
    began = time.perf_counter()
    pinned = torch.empty(2**28, pin_memory=True)
    seconds = {"pin": time.perf_counter() - began}
    ways: dict[str, Callable[[], object]] = {
        "to_pinned": lambda: pinned.copy_(on_device, non_blocking=True),
        "to_pageable": lambda: [part.cpu() for part in on_device.split(2**22)],
        "from_pinned": lambda: on_device.copy_(pinned, non_blocking=True),
    }
    for way, act in ways.items():
        synchronize(bench.device)
        began = time.perf_counter()
        act()
        synchronize(bench.device)
        seconds[way] = time.perf_counter() - began
    for way, taken in seconds.items():
        yield {"name": f"transfer.{way}", "value": 1 / taken, "unit": "GiB/s", "text": "1 GiB of fp32"}


PARTS = {part.__name__: part for part in (product, attention, first_call, loss, adamw, transfers)}


def main() -> int:
    bench = Bench()
    for name, part in PARTS.items():
        try:
            for answer in part(bench):
                print(json.dumps(answer), flush=True)
        except Exception as error:
            print(json.dumps({"part": name, "error": f"{type(error).__name__}: {error}"[:300]}), flush=True)
        if bench.cuda:
            torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
