"""What the experiments share: settings, runs, records, data, statistics, tracking."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
RESULTS = ROOT / "results"  # the committed results
