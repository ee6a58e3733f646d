"""`Patch`: what a method prepared for one edit, as a value and as the bytes of a safetensors file."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from memedit.errors import MethodError
from memedit.methods._effects import EFFECTS, Effect, RowPatch, Several

FORMAT = "1"
_BETWEEN = "|"  # in a tensor's name: module | kind of effect | field


@dataclass(frozen=True)
class Patch:
    """What happens to which modules of one base for one edit.

    Attributes:
        modules: module name -> effect. about: what made it, texts all: method, base (fingerprint), settings (JSON),
            content (the edit's hash), seconds, and what the method noted.
    """

    modules: RowPatch
    about: Mapping[str, str] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """A safetensors file: tensors named "module|kind|field", `about` in its header."""
        from safetensors.torch import save

        tensors = {
            _BETWEEN.join((module, part.kind, name)): tensor.detach().cpu().contiguous()
            for module, effect in self.modules.items()
            for part in (effect.parts if isinstance(effect, Several) else (effect,))
            for name, tensor in part.tensors().items()
        }
        return save(tensors, {**self.about, "format": FORMAT})

    @classmethod
    def from_bytes(cls, data: bytes) -> Patch:
        """The patch that a file holds.

        Raises:
            MethodError: it is none, or one of a newer memedit.
        """
        from safetensors.torch import load

        try:
            about = header(data)
            parts: dict[tuple[str, str], dict[str, Tensor]] = {}
            for name, tensor in load(data).items():
                module, kind, part = name.split(_BETWEEN)
                parts.setdefault((module, kind), {})[part] = tensor
            modules: dict[str, Effect] = {}
            for (module, kind), tensors in parts.items():
                effect = EFFECTS[kind](**tensors)
                modules[module] = modules[module] + effect if module in modules else effect
        except Exception as error:  # safetensors raises its own
            raise MethodError(
                f"a stored patch can't be read ({error}); `memedit prepare --anew` makes it again"
            ) from error
        if about.get("format") != FORMAT:
            raise MethodError(
                f"a stored patch has format {about.get('format')!r}, which this memedit can't read: "
                "update memedit, or make it again with `memedit prepare --anew`"
            )
        return cls(modules, about)

    @property
    def size(self) -> int:
        """Bytes of its tensors."""
        return sum(
            t.numel() * t.element_size()
            for e in self.modules.values()
            for part in (e.parts if isinstance(e, Several) else (e,))
            for t in part.tensors().values()
        )


def header(data: bytes) -> dict[str, str]:
    """What a safetensors file says of itself."""
    (length,) = struct.unpack("<Q", data[:8])
    about: Any = json.loads(data[8 : 8 + length]).get("__metadata__")
    return dict(about or {})
