"""A family's tiny model and processor as a Hugging Face folder, without a download."""

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.support import tiny

WORDS = [
    "user",
    "assistant",
    "what",
    "colour",
    "is",
    "it",
    "how",
    "many",
    "the",
    "two",
    "a",
    "red",
    "blue",
]
SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>", "<video>", "<image>", "<start>", "<end>"]
BREAK = "<break>"  # ends a row of an image, or a tile
assert SPECIAL.index("<image>") == tiny.IMAGE
assert SPECIAL.index("<video>") == tiny.VIDEO

TEMPLATE = """
{{- bos_token -}}
{%- for message in messages -%}
    {{- ' ' + message['role'] -}}
    {%- for part in message['content'] -%}
        {{- ' BEFORE<image>BEHIND' if part['type'] == 'image' else ' ' + part['text'] -}}
    {%- endfor -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- ' assistant' -}}{%- endif -%}
"""


def tokenizer():
    """Return a tokenizer with one token per word; image tokens and their neighbours are special."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *WORDS, BREAK])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    named = {
        "image_token": "<image>",
        "video_token": "<video>",
        "start_image_token": "<start>",
        "end_image_token": "<end>",
        "context_image_token": "<image>",
        "boi_token": "<start>",
        "eoi_token": "<end>",
        "img_line_break_token": BREAK,
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        extra_special_tokens=named,
    )


def template(around):
    """Return the chat template with the family's tokens before and after each image."""
    own = dict(enumerate(SPECIAL))  # others are put there by the processor
    before, behind = ("".join(own.get(token, "") for token in tokens) for tokens in around)
    return TEMPLATE.strip().replace("BEFORE", before).replace("BEHIND", behind)


def save(family, folder, layers=3, **sizes):
    """Write model, tokenizer, processor and chat template; sizes: image sizes of the family."""
    model = family.model(layers, **sizes)
    model.generation_config.eos_token_id = SPECIAL.index("<eos>")
    model.save_pretrained(folder)
    processor = family.processor(tokenizer(), template(family.AROUND), **sizes)
    processor.save_pretrained(folder)
