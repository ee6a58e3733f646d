"""What each row of a call asks: a conversation that is found in its ids or its text, or just a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from memedit.chat import ChatTemplate, Conversation
from memedit.router import Route, Router

if TYPE_CHECKING:
    import torch

    from memedit.lm import HFModel

Talks = Sequence[Conversation | None]  # one per row; None where a row is no conversation


class Asked:
    """Reads rows of one base by its chat template, as the tokenizer has it at the time of the call."""

    def __init__(self, base: HFModel) -> None:
        self._base = base
        self._made: ChatTemplate | None = None

    @property
    def template(self) -> ChatTemplate:
        """The tokenizer's present template; learned once."""
        made, source = self._made, getattr(self._base.tokenizer, "chat_template", None)
        if made is None or made.source != source:
            made = self._made = ChatTemplate(self._base.tokenizer, self._base.tokenizing)
        return made

    def in_texts(self, prompts: Sequence[str]) -> Talks:
        """Conversations in rendered texts, counted in the ids that the base makes of them."""
        template = self.template
        return [template.parse_text(prompt) for prompt in prompts]

    def in_ids(self, ids: torch.Tensor, mask: torch.Tensor | None) -> Talks:
        """Conversations in (rows, length) ids; mask: None where nothing is padding."""
        template = self.template
        if template.plain:
            return [None] * len(ids)
        rows = [row if mask is None else row[mask[i].bool()] for i, row in enumerate(ids)]
        return [template.parse(row.tolist()) for row in rows]

    def texts_of(self, ids: torch.Tensor, mask: torch.Tensor | None) -> list[str]:
        """What rows of ids say, without padding and special tokens."""
        rows = [row if mask is None else row[mask[i].bool()] for i, row in enumerate(ids)]
        return self._base.tokenizer.batch_decode(rows, skip_special_tokens=True)

    def batch(
        self, conversations: Sequence[Sequence[Mapping[str, Any]]], **options: Any
    ) -> tuple[torch.Tensor, torch.Tensor, list[Conversation]]:
        """Ids and mask of shape (conversations, length), left-padded, on the base's device; and what they say.

        Raises:
            ModelError: no conversation, or one that the template refuses.
        """
        from memedit.methods._splice import left_padded

        done = [self.template.rendered(messages, **options) for messages in conversations]
        ids, mask = left_padded([ids for ids, _ in done], self._base.tokenizer.pad_token_id)
        device = self._base.device
        return ids.to(device), mask.to(device), [talk for _, talk in done]

    def answers(self, ids: Any, prompt_length: int) -> list[str]:
        """What was said after the first `prompt_length` columns, up to where the template's form has an answer end."""
        texts = self._base.decode_new(ids, prompt_length)
        for stop in self.template.stop:
            texts = [text.partition(stop)[0] for text in texts]
        return [text.strip() for text in texts]


def routed(
    router: Router, texts: Sequence[str], talks: Talks, at: str | datetime | None = None
) -> list[Route]:
    """One route per row, conversations and texts in a batch each; a row without a word asks nothing."""
    plain = [i for i, talk in enumerate(talks) if talk is None and texts[i].strip()]
    chats = [talk for talk in talks if talk is not None]
    by_text = dict(zip(plain, router.route([texts[i] for i in plain], at), strict=True))
    by_talk = iter(router.route_chat(chats, at) if chats else ())
    return [
        by_text.get(i, Route(texts[i], (), (), 1.0, None)) if talk is None else next(by_talk)
        for i, talk in enumerate(talks)
    ]
