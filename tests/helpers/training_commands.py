"""Arguments of short runs of the training commands, and what they leave."""

from largegen.cli import run

LOOP = ["--warmup-steps", "2", "--workers", "0", "--log-every", "1", "--mixed-precision", "no", "--device", "cpu"]

RUN = ["checkpoint-2", "checkpoint-4", "config.json", "loss.png", "metrics.jsonl", "model", "samples", "tensorboard"]


def words(text: str, *more) -> list[str]:
    return [*text.split(), *map(str, more)]


def fails(capsys, arguments, code, text):
    capsys.readouterr()
    assert run(arguments) == code
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and text in last, last
