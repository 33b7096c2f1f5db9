"""Trains the demo model: from nothing, or further from an exported checkpoint.

    python -m opsearch.demo.training --out FOLDER

draws pictures with `opsearch.demo`, trains for a fixed number of steps, and leaves in FOLDER/model
a Hugging Face checkpoint with a model card. The run can be interrupted: the same command resumes
it. Nothing here is needed to use opsearch.

Reading order: `things` (what a picture shows), `packing`, `batches` and `feed` (what is read);
`model`, `attention`, `heads` and `losses` (what learns, and from what); `options`, `schedule`,
`optimiser`, `processes` and `trainer` (how); `export`, `evaluate`, `card` and `redundancy` (what
remains).
"""
