"""Checks made before Ray starts: each failure is a ConfigurationError of one line naming key, value and remedy.

In the order a run makes them:

1. `overrides.check_overrides(argv)`: names of group files on the command line, before Hydra composes.
2. `derived.fill_derived(config)`: null keys, derived from other keys.
3. `settings.check_config(config)`: everything the configuration itself says.
4. `machine.check_machine(config)`: whether this machine has what the platform needs.
5. `output.check_output(config)`: the run's folder, and the checkpoint in it.
6. `model.check_model(config)`: the model's folder, template and lengths, once its path is known.
7. `registered.check_registered(config)`: names in verl's registries, and verl's own validation. The module imports
   verl, which fixes verl's platform: import it after `platform.env_vars` are in the environment.
"""
