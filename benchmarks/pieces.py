"""Features in pieces that are small enough to carry to another machine, and back.

    python benchmarks/pieces.py pack my_features pieces/ --megabytes 60
    python benchmarks/pieces.py unpack pieces/ my_features

A piece is a Parquet file, packed by zstandard; features.json goes along, so what is unpacked is features again.
"""

import argparse
import math
import shutil
import sys
from pathlib import Path

import datasets
import pyarrow.parquet as pq

from span_electra.common.command_line import run_command
from span_electra.common.output_folder import atomic_folder, check_output_dir
from span_electra.tokenization.create_features import FEATURE_FILES, METADATA

MARGIN = 1.05  # pieces of equally many rows differ a little in size


def pack(features: Path, folder: Path, megabytes: float) -> list[Path]:
    """Write `features` to `folder` in as few pieces of at most so many megabytes as it takes."""
    if not (features / METADATA).is_file():
        sys.exit(f"{features}: not a folder of features, for it has no {METADATA}.")
    if not megabytes > 0:
        sys.exit(f"--megabytes {megabytes}: must be above 0.")
    check_output_dir(folder, "pieces", ("piece-*.parquet", METADATA), METADATA, overwrite=False)
    rows, count = datasets.load_from_disk(features).with_format("arrow"), 1
    with atomic_folder(folder) as aside:
        while True:
            pieces = [aside / f"piece-{i:04}-of-{count:04}.parquet" for i in range(count)]
            for i, piece in enumerate(pieces):
                table = rows.shard(count, i, contiguous=True)[:]  # not `to_parquet`, which takes no compression
                pq.write_table(table, piece, compression="zstd", compression_level=9)
            excess = max(piece.stat().st_size for piece in pieces) / (megabytes * 1e6)
            if excess <= 1:
                break
            if count >= len(rows):
                sys.exit(f"--megabytes {megabytes}: a single row takes more; give a larger number.")
            for piece in pieces:
                piece.unlink()
            count = min(len(rows), math.ceil(count * excess * MARGIN))
        shutil.copy(features / METADATA, aside)
    return [folder / piece.name for piece in pieces]


def unpack(folder: Path, features: Path) -> None:
    """Put the pieces in `folder` together again."""
    names = {path.name for path in folder.glob("piece-*-of-*.parquet")}
    counts = {int(name.removesuffix(".parquet").split("-")[-1]) for name in names}
    if len(counts) > 1:
        sys.exit(f"{folder}: holds pieces of several packs, of {' and '.join(map(str, sorted(counts)))}; keep one.")
    wanted = [f"piece-{i:04}-of-{count:04}.parquet" for count in counts for i in range(count)] or ["piece-*.parquet"]
    missing = sorted(set(wanted) - names) or [METADATA] * (not (folder / METADATA).is_file())
    if missing:
        sys.exit(f"{folder}: {', '.join(missing)} is missing; carry all of what pack wrote.")
    check_output_dir(features, "features", FEATURE_FILES, METADATA, overwrite=False)
    with atomic_folder(features) as aside:
        rows = datasets.concatenate_datasets(
            [datasets.Dataset.from_parquet(str(folder / name), cache_dir=str(aside / "cache")) for name in wanted]
        )
        rows.save_to_disk(aside)
        shutil.rmtree(aside / "cache")
        shutil.copy(folder / METADATA, aside)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    packing = actions.add_parser("pack")
    packing.add_argument("features", type=Path)
    packing.add_argument("folder", type=Path)
    packing.add_argument("--megabytes", type=float, default=60, help="the largest piece")
    unpacking = actions.add_parser("unpack")
    unpacking.add_argument("folder", type=Path)
    unpacking.add_argument("features", type=Path)
    options = parser.parse_args()
    if options.action == "unpack":
        return unpack(options.folder, options.features)
    for piece in pack(options.features, options.folder, options.megabytes):
        print(f"{piece}: {piece.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_command(main)
