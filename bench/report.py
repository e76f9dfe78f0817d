"""Writes results as CSV and Markdown."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from densor.compare.timing import Result

BASES = ("memcpy", "zipnn")
"""Codecs whose speeds the others are divided by."""

ORDER0 = "order-0"

FIELDS = (
    "input", "codec", "version", "threads", "repeats", "original_bytes", "compressed_bytes",
    "ratio", "compress_mb_s", "decompress_mb_s",
    "best_compress_mb_s", "best_decompress_mb_s",
    "compress_vs_memcpy", "decompress_vs_memcpy", "compress_vs_zipnn", "decompress_vs_zipnn",
    "first_compress_s", "first_decompress_s", "error", "note",
)  # fmt: skip


@dataclass
class InputReport:
    """All results on one input. ``order0`` is the order-0 bound in bytes, if there is one."""

    name: str
    tensors: int
    dtypes: Sequence[str]
    order0: float | None
    results: list[Result]


def against(result: Result, results: Iterable[Result], base: str) -> tuple[str, str]:
    """Compress and decompress speed divided by those of ``base`` in the same rounds."""
    other = next((r for r in results if r.codec == base and r.ok), None)
    if other is None:
        return "", ""
    return (
        f"{result.compress_mb_s / other.compress_mb_s:.3f}",
        f"{result.decompress_mb_s / other.decompress_mb_s:.3f}",
    )


def result_row(report: InputReport, r: Result) -> dict[str, str]:
    """One line of the CSV file."""
    row = dict.fromkeys(FIELDS, "")
    row |= {
        "input": report.name, "codec": r.codec, "version": r.version, "threads": str(r.threads),
        "repeats": str(len(r.compress_s)), "original_bytes": str(r.original), "error": r.error,
        "note": r.note,
    }  # fmt: skip
    if not r.ok:
        return row
    row |= {
        "compressed_bytes": str(r.compressed),
        "ratio": f"{r.ratio:.5f}",
        "compress_mb_s": f"{r.compress_mb_s:.1f}",
        "decompress_mb_s": f"{r.decompress_mb_s:.1f}",
        "best_compress_mb_s": f"{r.original / min(r.compress_s) / 1e6:.1f}",
        "best_decompress_mb_s": f"{r.original / min(r.decompress_s) / 1e6:.1f}",
        "first_compress_s": f"{r.first_compress_s:.3f}",
        "first_decompress_s": f"{r.first_decompress_s:.3f}",
    }
    for base in BASES:
        pair = against(r, report.results, base)
        row[f"compress_vs_{base}"], row[f"decompress_vs_{base}"] = pair
    return row


def order0_rows(report: InputReport) -> list[dict[str, str]]:
    """The pseudo-codec that states the order-0 bound, if there is one."""
    if report.order0 is None:
        return []
    row = dict.fromkeys(FIELDS, "")
    original = report.results[0].original
    bound = row | {
        "input": report.name,
        "codec": ORDER0,
        "original_bytes": str(original),
        "compressed_bytes": f"{report.order0:.0f}",
        "ratio": f"{report.order0 / original:.5f}",
        "note": "bound, not a codec",
    }
    return [bound]


def rows(reports: Iterable[InputReport]) -> list[dict[str, str]]:
    """All lines, the bound first in each input."""
    lines = []
    for report in reports:
        lines += order0_rows(report)
        lines += [result_row(report, r) for r in report.results]
    return lines


def write_csv(path: Path, reports: Iterable[InputReport]) -> None:
    """One line per input and codec; sizes in bytes, speeds in MB/s (10^6), times in s."""
    with path.open("w", newline="") as f:
        writer = csv.DictWriter(f, FIELDS)
        writer.writeheader()
        writer.writerows(rows(reports))


def markdown_table(header: Sequence[str], lines: Iterable[Sequence[str]], text: int = 1) -> str:
    """A Markdown table; the first ``text`` columns are aligned left, the others right."""
    rule = ["---" if i < text or name == "note" else "---:" for i, name in enumerate(header)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, rule, *lines])


def one_line(text: str) -> str:
    """An error message as it can stand in a cell."""
    return " ".join(text.replace("|", "/").split())[:200]


def rounded(number: str, digits: int) -> str:
    """A number of the CSV with fewer digits; empty stays empty."""
    return f"{float(number):.{digits}f}" if number else ""


def input_table(report: InputReport) -> str:
    """The Markdown table of one input, smallest ratio first; failures last."""
    header = ["codec", "ratio", "compress MB/s", "decompress MB/s", "compress ÷ memcpy",
              "decompress ÷ memcpy", "compress ÷ zipnn", "decompress ÷ zipnn", "repeats",
              "note"]  # fmt: skip
    lines = []
    for row in sorted(rows([report]), key=lambda row: float(row["ratio"] or 2)):
        speeds = [rounded(row[f"{d}_mb_s"], 0) for d in ("compress", "decompress")]
        pairs = [
            rounded(row[f"{d}_vs_{base}"], 3) for base in BASES for d in ("compress", "decompress")
        ]
        note = one_line(row["error"]) or row["note"]
        ratio = rounded(row["ratio"], 4)
        lines.append([row["codec"], ratio, *speeds, *pairs, row["repeats"], note])
    return markdown_table(header, lines)


def first_call_table(reports: Sequence[InputReport]) -> str:
    """First calls of codecs that compile code when called, in seconds; empty if none did."""
    lines = [
        [report.name, r.codec, f"{r.first_compress_s:.2f}", f"{r.first_decompress_s:.2f}"]
        for report in reports
        for r in report.results
        if r.compiles and r.ok
    ]
    if not lines:
        return ""
    return markdown_table(["input", "codec", "first compress s", "first decompress s"], lines, 2)


def input_section(report: InputReport) -> list[str]:
    """Heading, description and table of one input."""
    original, threads = report.results[0].original, report.results[0].threads
    about = (
        f"{report.tensors} tensors, {', '.join(report.dtypes)}, {original / 1e6:.1f} MB; "
        f"{threads} thread{'s' if threads != 1 else ''}."
    )
    return [f"## {report.name}", "", about, "", input_table(report)]


def markdown(
    reports: Sequence[InputReport], machine: Mapping[str, str], absent: Mapping[str, str]
) -> str:
    """The whole report."""
    parts = ["# Benchmark", ""]
    parts.append(
        "Ratio is compressed ÷ original size, lower is better. Speeds are medians in MB (10^6 "
        "bytes) of original\ndata per second, in memory, after one untimed round. The order-0 row "
        "is a bound, not a codec."
    )
    for report in reports:
        parts += ["", *input_section(report)]
    first = first_call_table(reports)
    if first:
        parts += ["", "## First calls", ""]
        parts += [
            "The first call on an input in this process. It compiles what no cache holds yet.",
            "",
            first,
        ]
    parts += ["", "## Machine", "", markdown_table(["what", "value"], list(machine.items()), 2)]
    versions = sorted({(r.codec, r.version) for report in reports for r in report.results})
    parts += ["", "## Versions", "", markdown_table(["codec", "version"], versions, 2)]
    if absent:
        reasons = [(name, one_line(reason)) for name, reason in absent.items()]
        parts += ["", "## Absent", "", markdown_table(["codec", "reason"], reasons, 2)]
    return "\n".join(parts) + "\n"
