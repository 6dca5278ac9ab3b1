"""Make the data of the task ``restaurants`` from RNNLG's dialogue acts.

The input folder holds ``rnnlg_train.jsonl.gz`` and ``rnnlg_dev.jsonl.gz``: one JSON object per row
of RNNLG's ``data/original``, with the fields that README.md beside the output lists. Run it as

    python tools/make_restaurants_data.py INPUT_FOLDER

Equal input gives equal bytes.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

OUTPUT = Path(__file__).parents[1] / "plugins/moalign_plugins/tasks/data/restaurants.jsonl.gz"
DOMAINS = ("restaurant", "hotel")
FIELDS = ("id", "domain", "act", "slots", "human", "template")


def main() -> None:
    """Read the two files of the input folder, keep what the task needs, write one file."""
    parser = argparse.ArgumentParser(description="Make the data of the task restaurants.")
    parser.add_argument("folder", type=Path, help="holds rnnlg_{train,dev}.jsonl.gz")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    kept = []
    for part in ("train", "dev"):
        with gzip.open(arguments.folder / f"rnnlg_{part}.jsonl.gz", "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        for row in rows:
            if row["domain"] in DOMAINS:
                texts = {name: " ".join(row[name].split()) for name in ("human", "template")}
                kept.append({name: row[name] for name in FIELDS} | texts)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
    arguments.output.write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"{len(kept)} rows, {arguments.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
