"""Apply a policy inside a Hugging Face pipeline.

    python examples/pipeline.py                                  # embedded model, VTW's schedule
    python examples/pipeline.py --policy runs/llava-1.5-7b --model llava-hf/llava-1.5-7b-hf \\
        --image cat.jpg --question "What is the cat doing?"
"""

import argparse
from pathlib import Path

from PIL import Image
from transformers import pipeline

import opsearch


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="demo")
    parser.add_argument(
        "--policy", type=Path, help="run folder; default: no visual tokens in the last layer"
    )
    parser.add_argument("--image", type=Path)
    parser.add_argument("--question")
    given = parser.parse_args()

    item = opsearch.load_items("demo", samples=1, split="test")[0]
    image = Image.open(given.image) if given.image else item.load_images()[0]
    content = [
        {"type": "image", "image": image},
        {"type": "text", "text": given.question or item.question},
    ]
    chat = [{"role": "user", "content": content}]

    model, processor = opsearch.load_model(given.model)
    pipe = pipeline("image-text-to-text", model=model, processor=processor)
    layers = model.config.get_text_config().num_hidden_layers
    policy = opsearch.builders.vtw(layers, layers - 1)
    if given.policy:
        policy = opsearch.Policy.from_pretrained(given.policy)
    print("original:", _answer(pipe, chat))
    with policy.apply(pipe.model):
        print(f"{policy.name}:", _answer(pipe, chat))


def _answer(pipe, chat) -> str:
    (result,) = pipe(text=chat, max_new_tokens=16, return_full_text=False)
    return result["generated_text"].strip()


if __name__ == "__main__":
    main()
