"""The embedded demo: a small trained vision-language model and the tasks of its training.

The model is an ordinary Hugging Face checkpoint (LLaVA architecture, 2,487,680 parameters) in
`MODEL_DIR`; `generator` makes its picture questions. Together they let every part of opsearch run
offline, on a laptop, within seconds, on a model whose answers are meaningful.
"""

from pathlib import Path

MODEL_DIR: Path = Path(__file__).parent / "model"
"""Folder of the checkpoint, for `AutoProcessor` and `AutoModelForImageTextToText`."""
