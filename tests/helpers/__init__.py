"""What tests share: slides, tiny models, denoisers with closed forms, a small disk."""

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
