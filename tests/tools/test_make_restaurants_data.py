from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "make_restaurants_data.py"


def test_keeps_two_domains_and_gives_equal_bytes(tmp_path):
    kept = {
        "id": "hotel-train-0",
        "domain": "hotel",
        "act": "inform",
        "slots": [["name", "abri"]],
        "human": "try  the abri ",
        "template": "abri is a nice place",
    }
    for part, domain in (("train", "hotel"), ("dev", "laptop")):
        row = kept | {"domain": domain, "mr": "not needed"}
        (tmp_path / f"rnnlg_{part}.jsonl.gz").write_bytes(
            gzip.compress(json.dumps(row).encode() + b"\n")
        )
    outputs = [tmp_path / "a.gz", tmp_path / "b.gz"]
    for output in outputs:
        subprocess.run([sys.executable, TOOL, tmp_path, "--output", output], check=True)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    assert [json.loads(line) for line in gzip.decompress(outputs[0].read_bytes()).splitlines()] == [
        kept | {"human": "try the abri"}
    ]
