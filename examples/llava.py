"""LLaVA-1.5-7B end to end: search a policy on your samples, print its result, generate with it.

    python examples/llava.py --data calib.jsonl --device cuda --dtype bfloat16
    python examples/llava.py --smoke     # random weights of a shrunken shape, on any machine

Each line of the data file is {"image": "a.jpg", "question": "...", "answer": "..."}.
"""

import argparse
import tempfile
from pathlib import Path

from shrunken import checkpoint, questions

import opsearch


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="llava-hf/llava-1.5-7b-hf")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--budget", default="30%")
    parser.add_argument("--out", type=Path, default=Path("runs/llava-1.5-7b"))
    parser.add_argument("--smoke", action="store_true")
    given = parser.parse_args()
    if given.smoke:
        folder = Path(tempfile.mkdtemp())
        given.model = checkpoint("llava-1.5-7b", folder / "model", layers=6)
        given.data = questions(folder / "data", 12)
    if given.data is None:
        parser.error("give --data, or --smoke")

    # Search on 64 samples, judge on 300 others; the smoke run has fewer.
    config = opsearch.RunConfig(
        model=given.model,
        data=given.data,
        device=given.device,
        dtype=given.dtype,
        budget=(given.budget,),
        samples=6 if given.smoke else 64,
        heldout=6 if given.smoke else 300,
        n_v=("1/4", "1") if given.smoke else "16",
        out=given.out,
    )
    result = opsearch.run(config)
    print(result)
    print(result.comparison.to_string(float_format="{:.3f}".format))

    # Any Hugging Face program can apply the policy like this; outside the block nothing changes.
    policy = opsearch.Policy.from_pretrained(given.out)
    loaded_as = {"dtype": given.dtype, "device": given.device}
    model, processor = opsearch.load_model(given.model, **loaded_as)
    item = opsearch.load_items(given.data)[0]
    content = [{"type": "image"}, {"type": "text", "text": item.question}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    inputs = processor(images=item.load_images(), text=prompt, return_tensors="pt").to(
        model.device, model.dtype
    )
    with policy.apply(model):
        output = model.generate(**inputs, max_new_tokens=16, do_sample=False)
    answer = output[0, inputs["input_ids"].shape[1] :]
    print(item.question, "->", processor.decode(answer, skip_special_tokens=True).strip())


if __name__ == "__main__":
    main()
