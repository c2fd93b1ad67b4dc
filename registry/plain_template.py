"""The chat template of a base that has none: one text, for training and for serving alike.

A base that was never tuned for chats (`org/model` without `-instruct`) has no chat template. Both
sides then render chats with this one, so that the token ids trained are those served:

    System:
    Be brief.
    User:
    What is OPL?
    Assistant:
    A language.<eos>

Turns end where a line ends, so that no token merges over the boundary of prompt and answer. It
begins with the tokenizer's BOS where that is a token of its own (Llama's `<s>`), and not where it
is the stop token too (GPT-2's). It has no tools and refuses what it would leave out.
"""

PLAIN_TEMPLATE = """\
{%- if tools %}{{ raise_exception('the plain template has no tools') }}{% endif %}
{%- if bos_token and bos_token != eos_token %}{{ bos_token }}{% endif %}
{%- for message in messages %}
{%- if message['role'] == 'system' %}{{ 'System:\\n' + message['content'] | trim + '\\n' }}
{%- elif message['role'] == 'user' %}{{ 'User:\\n' + message['content'] | trim + '\\n' }}
{%- elif message['role'] == 'assistant' %}
{%- if message['tool_calls'] %}
{{- raise_exception('the plain template has no tools') }}{% endif %}
{{- 'Assistant:\\n' + message['content'] | trim + eos_token + '\\n' }}
{%- else %}{{ raise_exception('the plain template has no role ' + message['role']) }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'Assistant:\\n' }}{% endif %}"""

PLAIN_NOTE = "has no chat template: chats are rendered as plain `User:` and `Assistant:` turns"
"""What training and serving say of such a base, after its name."""
