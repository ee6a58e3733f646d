"""Chat templates of our own writing, one for each way in which real ones differ."""

from __future__ import annotations

TEMPLATES = {
    # Turns between marks; a system prompt of its own where none is given.
    "default-system": (
        "{% if messages[0].role != 'system' %}[@system]\nBe kind and brief.[@stop]\n{% endif %}"
        "{% for m in messages %}[@{{ m.role }}]\n{{ m.content }}[@stop]\n{% endfor %}"
        "{% if add_generation_prompt %}[@assistant]\n{% endif %}"
    ),
    # Contents trimmed, the date in the preamble, thinking switched off by what stands after the answer's mark.
    "date-and-thinking": (
        "{{ bos_token }}<@system>\n\nDate: {{ date_string or strftime_now('%d %b %Y') }}\n\n"
        "{% if messages[0].role == 'system' %}{{ messages[0].content | trim }}{% set rest = messages[1:] %}"
        "{% else %}{% set rest = messages %}{% endif %}<@over>"
        "{% for m in rest %}<@{{ m.role }}>\n\n{{ m.content | trim }}<@over>{% endfor %}"
        "{% if add_generation_prompt %}<@assistant>\n\n"
        "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
    ),
    # Instructions in brackets; the system prompt between marks inside the first of them; strict turn-taking.
    "brackets": (
        "{% if messages[0].role == 'system' %}{% set sys = '<<RULES>>\n' + messages[0].content + '\n<</RULES>>\n\n' %}"
        "{% set rest = messages[1:] %}{% else %}{% set sys = '' %}{% set rest = messages %}{% endif %}"
        "{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('user and assistant must take turns') }}{% endif %}"
        "{% if m.role == 'user' %}{{ bos_token }}[ASK] {{ (sys if loop.first else '') + (m.content | trim) }} [/ASK]"
        "{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
    ),
    # The system prompt runs into the first user turn, with nothing but an empty line between.
    "merged": (
        "{{ bos_token }}{% if messages[0].role == 'system' %}{% set sys = messages[0].content + '\n\n' %}"
        "{% set rest = messages[1:] %}{% else %}{% set sys = '' %}{% set rest = messages %}{% endif %}"
        "{% for m in rest %}<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ (sys if loop.first else '') + (m.content | trim) }}</turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<turn>model\n{% endif %}"
    ),
    # No system prompt is taken.
    "refusing": (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system prompts here') }}{% endif %}"
        "{{ 'Human' if m.role == 'user' else 'Machine' }}: {{ m.content }}\n\n{% endfor %}"
        "{% if add_generation_prompt %}Machine:{% endif %}"
    ),
    # Plain words, told by headings; a preamble that is always there.
    "headings": (
        "Below is a task.\n\n{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n\n"
        "{% elif m.role == 'user' %}### Task:\n{{ m.content }}\n\n{% else %}### Reply:\n{{ m.content }}{{ eos_token }}\n\n"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}### Reply:\n{% endif %}"
    ),
}
