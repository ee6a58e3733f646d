"""Sentence encoders: text in, unit vectors out.

`MiniLM` runs all-MiniLM-L6-v2 from its own files with torch and tokenizers only. Importing transformers or
sentence-transformers costs seconds, more than a whole ``add-fact`` may take, and their wrappers cost as much
per short query as the six layers do. `Named` is any other model, through sentence-transformers.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from memedit.errors import ModelError
from memedit.int8 import Rounded, worthwhile

if TYPE_CHECKING:
    import torch

MAX_TOKENS = 128  # what all-MiniLM-L6-v2 was trained on, and where its tokenizer cuts
SMALL = 4  # texts; waking a second thread for fewer costs more than it saves, and very much more on a busy machine
BATCH = 64
GPU_BATCH = 512  # texts at once on a device that fills only with many


class Encoder(Protocol):
    """What `memedit.scope` needs of an encoder."""

    name: str
    dim: int
    digest: str  # of the weights: vectors of encoders with different digests must not meet

    def encode(self, texts: Sequence[str]) -> np.ndarray: ...


class MiniLM:
    """A BERT with mean pooling, from a folder in Hugging Face's layout (config, tokenizer, safetensors).

    Args:
        folder: holds config.json, tokenizer.json and model.safetensors.
        name: what the encoder is called in a memory.
        digest: of the weights file.
        device: a torch device; None for the CPU.
        precision: "bfloat16", "float32", or None for the faster: bfloat16 where the processor multiplies it in tiles.

    Attributes:
        keep: if set, is handed the token ids of every batch and what its layer `kept_layer` gave, (batch, length, dim).

    Raises:
        ModelError: a file is missing or is not what its name says.
    """

    def __init__(
        self, folder: Path, name: str, digest: str, device: str | None = None, precision: str | None = None
    ) -> None:
        import torch
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        self.name, self.digest = name, digest
        self.device = torch.device(device or "cpu")
        dtype = getattr(torch, precision) if precision else _fastest(self.device)
        try:
            self.config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            weights = load_file(folder / "model.safetensors")
        except Exception as error:  # tokenizers raises plain Exception
            raise ModelError(f"the encoder in {folder} can't be read: {error}") from error
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(MAX_TOKENS, direction="left")  # what is asked stands at the end
        self.weights: dict[str, Any] = {
            key: value.to(self.device, dtype if value.is_floating_point() else value.dtype)
            for key, value in weights.items()
        }
        self.dim = int(self.config["hidden_size"])
        self.heads = int(self.config["num_attention_heads"])
        self.layers = int(self.config["num_hidden_layers"])
        self.eps = float(self.config["layer_norm_eps"])
        self.kept_layer = 0
        self.keep: Callable[[list[list[int]], torch.Tensor], None] | None = None
        self._join_projections()

    @property
    def precision(self) -> str:
        """In what it computes: "bfloat16", "float32"."""
        return str(self.weights["embeddings.LayerNorm.weight"].dtype).removeprefix("torch.")

    def _join_projections(self) -> None:
        """Query, key and value of a layer as one matrix: one product in place of three."""
        import torch

        for layer in range(self.layers):
            at = f"encoder.layer.{layer}.attention.self."
            for kind in ("weight", "bias"):
                parts = [self.weights.pop(f"{at}{part}.{kind}") for part in ("query", "key", "value")]
                self.weights[f"{at}all.{kind}"] = torch.cat(parts)

    def quick(self) -> MiniLM | None:
        """The same with layers in 8-bit integers; None where that gains nothing: on a GPU, in bfloat16, on an older CPU."""
        if self.device.type != "cpu" or self.precision != "float32" or not worthwhile():
            return None
        twin = copy.copy(self)
        twin.weights, twin.keep = rounded(self.weights), None
        return twin

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (n, dim), float32."""
        return self.embed(texts).cpu().numpy()

    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """As `encode`, but the vectors stay on the encoder's device.

        Texts are sorted by length, so that little is spent on padding.
        """
        import torch

        encode = self.tokenizer.encode
        few = len(texts) <= SMALL  # here too, waking threads costs more than the work
        read = map(encode, texts) if few else self.tokenizer.encode_batch(list(texts))
        ids = [encoding.ids for encoding in read]
        if not ids:
            return torch.zeros((0, self.dim), device=self.device)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        size = BATCH if self.device.type == "cpu" else GPU_BATCH
        with torch.inference_mode(), _threads(len(ids), self.device):
            parts = [
                self._forward([ids[i] for i in order[start : start + size]])
                for start in range(0, len(order), size)
            ]
            if len(ids) == 1:
                return parts[0]
            back = torch.tensor(order).argsort().to(self.device, non_blocking=True)
            return torch.cat(parts).index_select(0, back)

    def _forward(self, rows: list[list[int]]) -> torch.Tensor:
        """BERT over rows of token ids, sorted by length; mean over the tokens; (n, dim)."""
        from torch.nn.functional import normalize

        longest = len(rows[-1])
        ids, real = padded(rows, self.device)
        x = self.start(ids, longest)
        for layer in range(self.layers):
            x = self.layer(x, layer, real)
            if layer + 1 == self.kept_layer and self.keep is not None:
                self.keep(rows, x)
        x = x.float()
        if real is None:
            return normalize(x.mean(1), dim=-1)
        return normalize((x * real[..., None]).sum(1) / real.sum(1, keepdim=True), dim=-1)

    def start(self, ids: torch.Tensor, longest: int) -> torch.Tensor:
        """What the first layer reads: (batch, length, dim) for token ids (batch, length)."""
        from torch.nn.functional import embedding, layer_norm

        w = self.weights
        x = (
            embedding(ids, w["embeddings.word_embeddings.weight"])
            + w["embeddings.position_embeddings.weight"][:longest]
            + w["embeddings.token_type_embeddings.weight"][0]
        )
        at = "embeddings.LayerNorm"
        return layer_norm(x, (self.dim,), w[f"{at}.weight"], w[f"{at}.bias"], self.eps)

    def layer(self, x: torch.Tensor, layer: int, real: torch.Tensor | None) -> torch.Tensor:
        """One layer over (batch, length, dim); `real` (batch, length) is False at padding, None without any."""
        return bert_layer(x, self.weights, f"encoder.layer.{layer}.", self.heads, self.eps, real)


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Token ids (batch, length), and which are real: None where all are.

    Made on the host and sent without waiting: made on a GPU at once, each would hold up the host.
    """
    import torch

    lengths = [len(row) for row in rows]
    longest = max(lengths)
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    ids = ids.to(device, non_blocking=True)
    if min(lengths) == longest:
        return ids, None
    sizes = torch.tensor(lengths).to(device, non_blocking=True)
    return ids, torch.arange(longest, device=device) < sizes[:, None]


def rounded(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Weights of `bert_layer`, the layers' matrices in 8-bit integers; all else is shared."""
    return {
        name: Rounded.of(value, weights[name.replace(".weight", ".bias")])
        if "layer." in name and value.dim() == 2
        else value
        for name, value in weights.items()
    }


def bert_layer(
    x: torch.Tensor,
    weights: Mapping[str, Any],
    at: str,
    heads: int,
    eps: float,
    real: torch.Tensor | None,
    first: bool = False,
) -> torch.Tensor:
    """One post-norm layer of BERT (Devlin et al., arXiv 1810.04805) with query, key and value joined.

    Args:
        x: (batch, length, dim). weights: by Hugging Face's names after the prefix `at`, but "attention.self.all" for
            the joined projections; matrices may be `Rounded`. real: (batch, length), False at padding. first: only the
            first token's output is wanted, (batch, 1, dim), which costs a quarter.
    """
    from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return layer_norm(x, x.shape[-1:], weights[f"{at}{name}.weight"], weights[f"{at}{name}.bias"], eps)

    def dense(x: torch.Tensor, name: str) -> torch.Tensor:
        weight = weights[f"{at}{name}.weight"]
        return weight(x) if isinstance(weight, Rounded) else linear(x, weight, weights[f"{at}{name}.bias"])

    # (batch, heads, length, width of a head), three times
    q, k, v = dense(x, "attention.self.all").unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    if first:
        q, x = q[:, :, :1], x[:, :1]
    mixed = scaled_dot_product_attention(q, k, v, attn_mask=None if real is None else real[:, None, None])
    mixed = dense(mixed.transpose(1, 2).flatten(2), "attention.output.dense")
    x = norm(x + mixed, "attention.output.LayerNorm")
    inner = dense(gelu(dense(x, "intermediate.dense")), "output.dense")
    return norm(x + inner, "output.LayerNorm")


class Named:
    """Any sentence-transformers model, by its name on the hub or by folder.

    Raises:
        ModelError: there is no such model, or it can't be loaded.
    """

    def __init__(self, name: str, device: str | None = None) -> None:
        try:
            from sentence_transformers import SentenceTransformer

            self.model = SentenceTransformer(name, device=device or "cpu")
        except Exception as error:
            raise ModelError(f"the encoder {name!r} can't be loaded: {str(error).splitlines()[0]}") from error
        self.name = name
        self.dim = len(self.encode(["a"])[0])
        digest = hashlib.sha256()
        for key, value in sorted(self.model.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.float().cpu().numpy().tobytes())
        self.digest = digest.hexdigest()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (n, dim), float32."""
        return self.embed(texts).cpu().numpy()

    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """As `encode`, but the vectors stay on the encoder's device."""
        import torch

        if not len(texts):
            return torch.zeros((0, self.dim))
        return self.model.encode(
            list(texts), normalize_embeddings=True, show_progress_bar=False, convert_to_tensor=True
        ).float()


def _fastest(device: torch.device) -> torch.dtype:
    import torch

    if device.type != "cpu":
        return torch.bfloat16
    # Only tiles (AMX) multiply bfloat16 quicker. With the plain instruction a single text gains a little and a batch
    # loses a third; without it bfloat16 is emulated.
    tiles = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return torch.bfloat16 if tiles is not None and tiles() else torch.float32


@contextmanager
def _threads(texts: int, device: torch.device) -> Iterator[None]:
    """One thread for a few texts, all for many."""
    import torch

    before = torch.get_num_threads()
    if texts > SMALL or before == 1 or device.type != "cpu":
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
