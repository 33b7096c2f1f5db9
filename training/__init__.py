"""Training of the demo model, from random weights or from an exported checkpoint.

    python -m training --out FOLDER

draws pictures with `opsearch.data.demo`, trains for a fixed number of steps, and writes a Hugging
Face checkpoint with a model card to FOLDER/model. If interrupted, the same command resumes. Nothing
here is needed to use opsearch.

Reading order: `things` (content of a picture), `packing`, `batches` and `feed` (data); `model`,
`attention`, `heads` and `losses` (model and losses); `options`, `schedule`, `optimiser`,
`processes` and `trainer` (training); `evaluate`, `card` and `redundancy` (results).
"""
