"""Weightings by name and by path: registration, building from a line of YAML, errors."""

import inspect
import math
import sys

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from actfocus_verl.credit import registry
from actfocus_verl.credit.registry import build_weighting, known_weightings, register_weighting
from actfocus_verl.credit.weighting import actfocus, actfocus_weighting, uniform
from actfocus_verl.errors import ConfigurationError

ROLES = torch.tensor([[0, 1, 2, 3]])
ENERGY = torch.tensor([[0.0, 0.0, -1.0, 0.0]])


@pytest.fixture
def own_names(monkeypatch):
    """Names registered by a test are forgotten after it."""
    known_weightings()
    monkeypatch.setattr(registry.WEIGHTINGS, "entries", dict(registry.WEIGHTINGS.entries))


@pytest.fixture
def user_module(tmp_path, monkeypatch, own_names):
    """A module as a user would write it; returns its name."""
    (tmp_path / "user_weightings.py").write_text(
        "import actfocus_verl.credit.registry as registry\n"
        "def half_reasoning(columns, *, share=0.5):\n"
        "    roles = columns['token_roles']\n"
        "    return (roles == 2) + share * ((roles == 1) | (roles == 3))\n"
        "def needs(columns, *, strength):\n"
        "    return columns['entropys'] * strength\n"
        "def anything(columns, **parameters):\n"
        "    return columns['token_roles'] * parameters['k']\n"
        "@registry.register_weighting('by_energy', required_columns=('energy',))\n"
        "def by_energy(columns):\n"
        "    return columns['energy'].exp()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "user_weightings", raising=False)
    return "user_weightings"


def test_ours_are_registered():
    names = ("actfocus", "action_only", "aem", "empg", "entropy_quantile", "hindsight", "influence", "uniform")
    assert known_weightings() == names
    assert registry.WEIGHTINGS.get("actfocus").function is actfocus_weighting


def test_uniform_from_yaml():
    spec = build_weighting(yaml.safe_load("{name: uniform}"))
    assert (spec.name, spec.normalize, spec.required_columns) == ("uniform", "batch", ())
    assert torch.equal(spec({"token_roles": ROLES}), uniform(ROLES))


def test_actfocus_from_yaml():
    line = (
        "{name: actfocus, alpha: 0.2, beta: 1, format_weight: null, signal: energy, normalize: mini_batch, eps: 1.0e-8}"
    )
    spec = build_weighting(OmegaConf.create(line))
    assert (spec.normalize, spec.required_columns) == ("mini_batch", ("energy",))
    weights = spec({"token_roles": ROLES, "energy": ENERGY})
    assert torch.equal(weights, actfocus(ENERGY, ROLES, alpha=0.2, beta=1.0))


def test_defaults_are_those_of_the_formula():
    spec = build_weighting({"name": "actfocus"})
    formula = {
        name: p.default for name, p in inspect.signature(actfocus).parameters.items() if p.kind is p.KEYWORD_ONLY
    }
    assert spec.params == formula | {"signal": "energy"}


def test_actfocus_without_modulation_needs_no_energy():
    spec = build_weighting({"name": "actfocus", "beta": 0})
    assert spec.required_columns == ()
    assert torch.equal(spec({"token_roles": ROLES}), torch.tensor([[0, 0.1, 1, 0.1]]))


@pytest.mark.parametrize(
    ("config", "columns"),
    [
        ({"name": "action_only"}, ()),
        ({"name": "entropy_quantile"}, ("entropy",)),
        ({"name": "aem"}, ("entropy", "turn_ids", "group_ids")),
        ({"name": "aem", "scope": "batch"}, ("entropy", "turn_ids")),
        ({"name": "influence"}, ("influence",)),
        ({"name": "influence", "level": "token"}, ("influence", "relevance", "turn_ids")),
        ({"name": "empg"}, ("entropy", "turn_ids", "advantages")),
        ({"name": "empg", "center": False}, ("entropy", "turn_ids")),
        ({"name": "actfocus", "signal": "entropy"}, ("reference_entropy",)),
        ({"name": "actfocus", "signal": "nll"}, ("old_log_probs",)),
        ({"name": "actfocus", "signal": "log_prob_shift"}, ("old_log_probs", "ref_log_prob")),
        ({"name": "actfocus", "signal": "gauge_free_energy"}, ("gauge_free_energy",)),
        ({"name": "actfocus", "signal": "nll", "beta": 0}, ()),
    ],
)
def test_required_columns_follow_the_parameters(config, columns):
    assert build_weighting(config).required_columns == columns


def test_placebo_is_a_parameter_of_every_weighting(user_module):
    assert not build_weighting({"name": "uniform"}).placebo
    assert build_weighting({"name": f"{user_module}:half_reasoning", "placebo": True}).placebo


def test_own_weighting_by_path_is_one_function_and_one_line(user_module):
    spec = build_weighting({"name": f"{user_module}:half_reasoning", "share": 0.25})
    assert spec.required_columns == ()
    assert spec({"token_roles": ROLES}).tolist() == [[0, 0.25, 1, 0.25]]


def test_own_weighting_with_free_parameters(user_module):
    assert build_weighting({"name": f"{user_module}:anything", "k": 2})({"token_roles": ROLES}).tolist() == [
        [0, 2, 4, 6]
    ]


def test_own_weighting_registered_by_its_module(user_module):
    spec = build_weighting({"name": f"{user_module}:by_energy"})
    assert spec.required_columns == ("energy",)
    assert build_weighting({"name": "by_energy"}).definition is spec.definition


def test_registering_twice(own_names):
    def mine(columns):
        return columns["token_roles"]

    def other(columns):
        return columns["token_roles"]

    assert register_weighting("mine")(mine) is mine
    register_weighting("mine")(mine)  # a reload of its module
    with pytest.raises(ValueError, match=r"'mine' is taken by .*mine"):
        register_weighting("mine")(other)


@pytest.mark.parametrize("name", ["", "a:b", "a.b"])
def test_registering_under_a_path(name):
    with pytest.raises(ValueError, match="is empty or looks like a path"):
        register_weighting(name)(uniform)


def test_registering_columns_as_one_string():
    with pytest.raises(ValueError, match=r"write \('energy',\)"):
        register_weighting("mine", required_columns="energy")(uniform)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {},
            r"credit.name=None: is missing. Choose one of actfocus, .*, hindsight, influence, uniform",
        ),
        (
            {"name": "actfocsu"},
            r"credit.name='actfocsu': is not a known weighting. Choose one of actfocus, .*, uniform, or pack",
        ),
        ({"name": "os.path.join"}, r"credit.name='os.path.join': is not a known weighting. .* package.module:function"),
        ({"name": "no_such_module:f"}, r"credit.name='no_such_module:f': its module cannot be imported"),
        ({"name": ":f"}, r"credit.name=':f': its module cannot be imported"),
        ({"name": "math:no_such"}, r"credit.name='math:no_such': module math has no function 'no_such'"),
        ({"name": "math:pi"}, r"module math has no function 'pi'"),
        (
            {"name": "uniform", "alpha": 0.1},
            r"credit.alpha=0.1: is not a parameter of the weighting uniform. Known keys: name",
        ),
        (
            {"name": "actfocus", "alhpa": 0.1},
            r"credit.alhpa=0.1: .* Known keys: name, normalize, placebo, action_span, alpha, beta, format_weight, ",
        ),
        ({"name": "actfocus", "alpha": 1.01}, r"credit.alpha=1.01: must be a number between 0 and 1"),
        ({"name": "actfocus", "alpha": "1e-1"}, r"credit.alpha='1e-1': must be a number between 0 and 1"),
        ({"name": "actfocus", "beta": -1}, r"credit.beta=-1: must be a finite number >= 0"),
        ({"name": "actfocus", "format_weight": -1}, r"credit.format_weight=-1: must be a finite number >= 0"),
        ({"name": "actfocus", "eps": 0}, r"credit.eps=0: must be a finite number > 0"),
        (
            {"name": "actfocus", "signal": "reference_entropy"},
            r"credit.signal='reference_entropy': is not a known value. Choose one of: energy, entropy, nll, log_prob_",
        ),
        ({"name": "uniform", "placebo": 1}, r"credit.placebo=1: must be true or false"),
        (
            {"name": "entropy_quantile", "fraction": 0},
            r"credit.fraction=0: must be a number > 0 and <= 1",
        ),
        ({"name": "aem", "lam": 21}, r"credit.lam=21: must be a number between -20 and 20"),
        ({"name": "aem", "gate": -0.1}, r"credit.gate=-0.1: must be a finite number >= 0"),
        (
            {"name": "aem", "scope": "turn"},
            r"credit.scope='turn': is not a known value. Choose one of: group, trajectory, batch",
        ),
        ({"name": "empg", "k": -1}, r"credit.k=-1: must be a number between 0 and 20"),
        ({"name": "empg", "k_future": math.nan}, r"credit.k_future=nan: must be a number between 0 and 20"),
        ({"name": "empg", "zeta": -0.1}, r"credit.zeta=-0.1: must be a finite number >= 0"),
        ({"name": "empg", "center": "yes"}, r"credit.center='yes': must be true or false"),
        (
            {"name": "actfocus", "normalize": "token"},
            r"credit.normalize='token': is not a known value. Choose one of: batch, mini_",
        ),
    ],
)
def test_bad_configurations(config, message):
    with pytest.raises(ConfigurationError, match=message) as error:
        build_weighting(config)
    assert "\n" not in str(error.value)


def test_missing_parameter(user_module):
    with pytest.raises(ConfigurationError, match=r"credit.strength=None: is missing, .* Set credit.strength"):
        build_weighting({"name": f"{user_module}:needs"})
