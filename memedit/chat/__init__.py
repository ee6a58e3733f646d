"""Conversations: found in a caller's ids or texts (template.py), and what their last turn asks (dialogue.py, doubts.py)."""

from memedit.chat.template import (
    NO_MESSAGES,
    ChatTemplate,
    Conversation,
    Turn,
    conversations_in,
    is_messages,
)

__all__ = ["NO_MESSAGES", "ChatTemplate", "Conversation", "Turn", "conversations_in", "is_messages"]
