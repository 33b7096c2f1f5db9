"""Tables and figures computed from stored results; no module here loads a model."""
