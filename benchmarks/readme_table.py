"""The tables of results in README.md and benchmarks/results/README.md, from the ladder's JSON.

    python benchmarks/readme_table.py            # shows them
    python benchmarks/readme_table.py --write    # writes them between their markers

A test fails when a page and the JSON differ. To show another ladder, name its results and its rungs here.
"""

import argparse
import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from ladder_report import PROBES, shown_spread, task_cell

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "cpu.json"
RUNGS = {
    "scratch": "none (random weights)",
    "0_mlm": "masked language modelling alone",
    "1_electra": "ELECTRA on single tokens",
    "2_spans": "ELECTRA on spans",
    "3_sbgo": "… with SBGO",
    "4_sbpo": "… with SBGO and SBPO",
    "5_disentangled": "… with SBGO, SBPO and disentangled embeddings",
}
ON_THE_README = [*RUNGS][:-1]
TASKS = ("wnut17", "sst2", "stsb", "mrpc", "rte")
PERPLEXITY, FIXED_AUC = PROBES[0], PROBES[2]


def short_table(results: dict[str, dict]) -> str:
    """What a newcomer wants to know: detection, entities, and the mean of the tasks."""
    head = ("pretraining", "detection, AUC on a fixed corruption", "entities (WNUT-17), F1", "mean of five tasks")
    entries = {name: results[name] for name in ON_THE_README}
    rows = [
        (RUNGS[name], probe(entry, FIXED_AUC, 2), shown_spread(entry["tasks"]["wnut17"], 1), f"{entry['mean']:.1f}")
        for name, entry in entries.items()
    ]
    return markdown(head, rows)


def long_table(results: dict[str, dict]) -> str:
    """Everything that was measured of each rung, in one row."""
    head = ("pretraining", "FLOPs", "perplexity", "fixed AUC", *TASKS, "mean")
    rows = []
    for name, label in RUNGS.items():
        entry = results[name]
        flops = f"{entry['flops']:.2e}" if "flops" in entry else ""
        scores = [task_cell(entry["tasks"][task]) for task in TASKS]
        row = (label, flops, probe(entry, PERPLEXITY, 0), probe(entry, FIXED_AUC, 3), *scores, f"{entry['mean']:.1f}")
        rows.append(row)
    return markdown(head, rows)


def probe(entry: dict, name: str, digits: int) -> str:
    values = entry.get("probes", {}).get(name)
    return "" if values is None else shown_spread(values, digits)


def markdown(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    first, *others = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join([first, "|---" * len(head) + "|", *others])


PAGES = {ROOT / "README.md": short_table, RESULTS.with_name("README.md"): long_table}


def with_table(page: str, table: str) -> str:
    """`page` with `table` between its markers."""
    block = re.compile(r"(<!-- results[^\n]*-->\n).*?(<!-- end of results -->)", re.DOTALL)
    if not block.search(page):
        raise ValueError("The page has no markers `<!-- results … -->` and `<!-- end of results -->`.")
    return block.sub(lambda found: f"{found[1]}{table}\n{found[2]}", page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the tables into the pages")
    options = parser.parse_args()
    results = {entry["rung"]: entry for entry in json.loads(RESULTS.read_text())}
    for path, make in PAGES.items():
        print(f"{path.relative_to(ROOT)}\n\n{make(results)}\n")
        if options.write:
            path.write_text(with_table(path.read_text(encoding="utf-8"), make(results)), encoding="utf-8")


if __name__ == "__main__":
    main()
