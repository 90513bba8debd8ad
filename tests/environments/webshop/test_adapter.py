"""The adapter to the original WebShop, over a stand-in for its package: the original is not installed here."""

from __future__ import annotations

import random
import sys
from types import ModuleType

import pytest

from actfocus_verl.environments import make_world
from actfocus_verl.environments.webshop import adapter
from actfocus_verl.errors import ConfigurationError

PATH = "actfocus_verl.environments.webshop.adapter:WebShopOriginal"


class StandInServer:
    """Stand-in for `SimServer`: goals, and the random prices that the original draws while it loads."""

    def __init__(self) -> None:
        self.price = random.random()
        self.goals = [
            {"instruction_text": f"buy thing {i}", "goal_options": {"color": "red"} if i % 2 else {}}
            for i in range(1700)
        ]
        self.sessions: list[str] = []


class StandInTextEnv:
    """Stand-in for `web_agent_site.envs.WebAgentTextEnv`: its constructor, methods and three pages of its text."""

    made: list[StandInTextEnv] = []

    def __init__(self, observation_mode="html", server=None, num_products=None, human_goals=None, session_prefix=None):
        assert observation_mode == "text_rich"
        self.arguments = (num_products, human_goals)
        self.server = server or StandInServer()
        self.prefix = session_prefix
        self.steps: list[str] = []
        StandInTextEnv.made.append(self)
        self.reset()

    def reset(self, session=None):
        self.session = f"{self.prefix}{session}"
        self.server.sessions.append(self.session)
        self.task = self.server.goals[session]["instruction_text"] if session is not None else ""
        self.page, self.query = "search", ""
        return self.observation, None

    @property
    def observation(self) -> str:
        head = f"Instruction: {self.task}\n"
        if self.page == "search":
            return f"WebShop\n{head}[button] Search [button_]\n"
        if self.page == "done":
            return "Thank you for shopping with us!\n"
        return f"{head}Current Query: {self.query}\n[button] Back to Search [button_]\n[button] B07XYZ [button_]\n"

    def get_available_actions(self):
        clickable = {"search": ["search"], "results": ["back to search", "b07xyz", "Buy Now"], "done": []}[self.page]
        return {"has_search_bar": self.page == "search", "clickables": clickable}

    def step(self, action):
        self.steps.append(action)
        if action.startswith("search["):
            self.page, self.query = "results", action[7:-1]
        elif action == "click[Buy Now]":
            self.page = "done"
            return self.observation, 0.75, True, None
        elif action == "click[back to search]":
            self.page = "search"
        return self.observation, 0.0, False, None


@pytest.fixture
def stand_in(monkeypatch):
    """A module of the original's name in the place of the original."""
    package, envs = ModuleType("web_agent_site"), ModuleType("web_agent_site.envs")
    envs.WebAgentTextEnv = StandInTextEnv
    monkeypatch.setitem(sys.modules, "web_agent_site", package)
    monkeypatch.setitem(sys.modules, "web_agent_site.envs", envs)
    StandInTextEnv.made.clear()
    adapter._server.cache_clear()
    yield StandInTextEnv
    adapter._server.cache_clear()


def original(**arguments):
    return make_world(PATH, preset="original", **arguments)


def test_where_it_is_absent_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "web_agent_site", None)  # as where nobody has installed it
    with pytest.raises(ConfigurationError) as caught:
        original()
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "web_agent_site",
        "princeton-nlp/WebShop",
        "setup.sh",
        "OpenJDK",
        "pyserini",
        "Lucene",
        "en_core_web_lg",
    ):
        assert part in message
    for part in ("items_*.json", "PYTHONPATH", "env.name=webshop"):
        assert part in message


def test_whatever_fails_inside_is_named_in_one_line(stand_in, monkeypatch):
    def fail(*arguments, **settings):
        raise OSError("[E050] Can't find model\n'en_core_web_lg'")

    monkeypatch.setattr(StandInTextEnv, "__init__", fail)
    with pytest.raises(ConfigurationError, match=r"OSError: \[E050\] Can't find model 'en_core_web_lg'"):
        original()


def test_an_episode(stand_in):
    world = original(split="evaluation", index=3)
    assert "buy thing 503" in world.render()
    assert "Elements" not in world.render()
    assert "search[" in world.system_prompt()
    start = world.anchor()
    assert world.parse_action("click[search]") is None
    assert world.parse_action("click[b07xyz]") is None
    world.step(world.parse_action("search[<r> Thing, xqzv]"))
    env = stand_in.made[-1]
    assert env.steps == ["search[r thing xqzv]"]  # words only: <r> would be a command of the original
    assert "xqzv" in env.observation
    assert "xqzv" not in world.render()  # the query is not shown
    assert world.render().splitlines()[-1] == "Elements: back to search, b07xyz, Buy Now"
    assert world.parse_action("search[again]") is None
    assert world.anchor() != start
    assert world.step(world.parse_action("CLICK[B07XYZ]")).reward == 0.0
    assert world.outcome() == {"purchased": 0.0, "score": 0.0}
    result = world.step(world.parse_action("click[buy  now]"))
    assert (result.reward, result.done, result.success) == (0.75, True, False)
    assert world.outcome() == {"purchased": 1.0, "score": 0.75}
    assert world.parse_action("click[buy now]") is None
    with pytest.raises(RuntimeError, match="after the episode ended"):
        world.step(("click", "buy now"))


def test_splits_are_the_originals(stand_in):
    def goal(split: str, index: int) -> str:
        return original(split=split, index=index).render().splitlines()[1]

    assert goal("test", 0) == "Instruction: buy thing 0"
    assert goal("test", 499) == "Instruction: buy thing 499"
    assert goal("evaluation", 999) == "Instruction: buy thing 1499"
    assert goal("train", 0) == goal("train", 200) == "Instruction: buy thing 1500"
    assert original(index=1).stratum() == 4
    assert original(index=2).stratum() == 3
    assert original(index=1).board_hash() != original(index=2).board_hash()
    with pytest.raises(ConfigurationError, match="499"):
        original(split="test", index=500)


def test_the_catalogue_is_loaded_once_and_sessions_are_apart(stand_in):
    worlds = [original(index=5) for _ in range(3)]
    servers = {id(env.server) for env in stand_in.made}
    assert len(servers) == 1
    sessions = [env.session for env in stand_in.made if env.prefix]
    assert len(set(sessions)) == len(worlds)
    assert stand_in.made[0].arguments == (1000, False)
    assert original(products=0, human_goals=1).config.human_goals == 1
    assert stand_in.made[-1].arguments == (None, True)


def test_random_prices_are_the_same_everywhere_and_the_generator_is_left_alone(stand_in):
    random.seed(5)
    original()
    prices, after = [stand_in.made[-1].server.price], random.random()
    adapter._server.cache_clear()
    original()
    prices.append(stand_in.made[-1].server.price)
    assert prices[0] == prices[1]
    random.seed(5)
    assert after == random.random()


def test_too_few_goals_are_refused(stand_in, monkeypatch):
    monkeypatch.setattr(StandInServer, "__init__", lambda self: self.__dict__.update(goals=[{}] * 1500, sessions=[]))
    monkeypatch.setattr(StandInTextEnv, "reset", lambda self, session=None: None)
    with pytest.raises(ConfigurationError, match="1500 goals in the data"):
        original()
