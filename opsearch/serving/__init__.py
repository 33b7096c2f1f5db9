"""Serving of policies with vLLM: a plug-in for `--hf-overrides '{"opsearch_policy": "FOLDER"}'`.

prompt_rows, step, shrink and served_policy plan with torch alone; the other modules face vLLM.
"""
