"""The CPU platform: what stock verl and vLLM need to train on a machine without an accelerator."""
