"""Our engine and loss under verl's FSDP engine on this machine's GPU: are they right, and what do they cost?

    python scripts/gpu_check.py --out results/gpu/h100.json --budget-seconds 180
    python scripts/gpu_check.py --table results/gpu/h100.json
    python scripts/gpu_check.py --device cpu --tiny --out /tmp/check.json

Needs torch, transformers, peft, tensordict, omegaconf, hydra-core, codetiming, dill, wrapt and verl. Ray, TransferQueue
and the like need not be there: verl imports them, and a pass over a batch uses none of them, so they are replaced by
empty modules. Nothing is downloaded: weights are random, in the shapes of published models.

Each check stands alone: one that fails is reported, and the rest go on. The JSON is rewritten after each.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
import time
import traceback
from pathlib import Path

import torch
from engine_bench import Bench, Result, alone, import_without_ray
from gpu_check_table import tables
from gpu_checks import Check, checks


def machine(device: str) -> Result:
    def version(name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    names = ("torch", "transformers", "verl", "tensordict", "peft", "triton", "flash-attn")
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "python": sys.version.split()[0],
        "versions": {name: version(name) for name in names},
    }


def run(device: str, tiny: bool, budget: float, only: list[str], out: Path) -> bool:
    start = time.monotonic()
    import_without_ray(device)
    report: Result = machine(device) | {"import_seconds": time.monotonic() - start, "checks": {}}
    print(json.dumps({key: value for key, value in report.items() if key != "checks"}), flush=True)
    with alone(device, tiny=tiny, rounds=2 if tiny else 5) as bench:
        for check in checks(tiny):
            if only and not any(part in check.name for part in only):
                continue
            left = budget - (time.monotonic() - start)
            report["checks"][check.name] = run_one(check, bench, left)
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(report, indent=1) + "\n")
    return all(result.get("passed", False) for result in report["checks"].values())


def run_one(check: Check, bench: Bench, left: float) -> Result:
    if left < check.seconds:
        print(f"{check.name}: left out, {left:.0f} s left", flush=True)
        return {"left_out": True}
    began = time.monotonic()
    try:
        result = check.run(bench)
    except Exception as error:  # noqa: BLE001 - a check that cannot run must not hide the others
        traceback.print_exc()
        result = {"passed": False, "error": f"{type(error).__name__}: {error}"[:500]}
    result["wall_seconds"] = round(time.monotonic() - began, 1)
    print(f"{check.name}: {json.dumps(result)}", flush=True)
    return result


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes for a test on a CPU")
    parser.add_argument("--budget-seconds", type=float, default=600.0)
    parser.add_argument("--only", nargs="*", default=[], help="checks whose name contains one of these")
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"))
    parser.add_argument("--table", type=Path, help="print the tables of an earlier run instead")
    chosen = parser.parse_args(arguments)
    if chosen.table:
        print(tables(json.loads(chosen.table.read_text())), end="")
        return 0
    return 0 if run(chosen.device, chosen.tiny, chosen.budget_seconds, chosen.only, chosen.out) else 1


if __name__ == "__main__":
    sys.exit(main())
