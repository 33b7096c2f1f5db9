"""The embedded demonstration: a small trained vision-language model and the tasks it was taught.

The model is an ordinary Hugging Face checkpoint (LLaVA architecture, 2,487,680 parameters) in
`MODEL_DIR`; `generator` draws its picture questions. Together they let every part of opsearch run
offline, on a laptop, within seconds, and on a model whose answers mean something.
"""

from pathlib import Path

MODEL_DIR: Path = Path(__file__).parent / "model"
"""Folder of the checkpoint, for `AutoProcessor` and `AutoModelForImageTextToText`."""
