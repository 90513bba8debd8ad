"""The Hydra configuration: train.yaml and its groups, shipped as the package ``actfocus_verl_configs``."""
