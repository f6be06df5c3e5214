"""`largegen encoders`: the encoders known by name."""

from dataclasses import asdict

import typer

from largegen.cli.aligned import aligned
from largegen.cli.common import print_json
from largegen.cli.options import Json


def encoders(json: Json = False) -> None:
    """Run `largegen encoders`; its purpose stands in commands.py.

    Each with the dimension of its embeddings, its input size, precision and licence. --encoder also takes any timm
    model name, hf-hub:ORG/NAME and local-dir:DIR.
    """
    from largegen.models.encoder import encoder_names, encoder_spec

    specs = [encoder_spec(name) for name in encoder_names()]
    if json:
        print_json({"encoders": [{"width" if k == "dim" else k: v for k, v in asdict(spec).items()} for spec in specs]})
        return
    rows = [("name", "dim", "input px", "precision", "licence", "page")]
    rows += [(s.name, str(s.dim), str(s.input_px), s.precision, s.licence, s.page) for s in specs]
    typer.echo(aligned(rows))
