"""The toy-text environments: what they show, and episodes played to their end."""

from __future__ import annotations

from collections import deque

import pytest

from actfocus_verl.errors import ConfigurationError
from tests.environments.adapters.cases import GYMNASIUM

gymnasium = pytest.importorskip("gymnasium")

TAXI = next(name for name in ("Taxi-v4", "Taxi-v3") if name in gymnasium.registry)


def test_the_cliff_is_walked_around_and_fallen_from():
    world = GYMNASIUM.world(task="CliffWalking-v1")
    assert world.render().splitlines()[-1] == "x" + 10 * "  C" + "  T"
    fallen = world.step(world.parse_action("Right"))
    assert (fallen.reward, fallen.done) == (-100.0, False)
    assert world.render().splitlines()[-1][0] == "x"
    results = [world.step(world.parse_action(name)) for name in ["Up"] + 11 * ["Right"] + ["Down"]]
    assert sum(result.reward for result in results) == -13.0
    assert [result.done for result in results] == 12 * [False] + [True]
    assert world.success


def test_the_taxi_reads_its_state_and_delivers():
    world = GYMNASIUM.world(task=TAXI, index=5)
    state, solved = world._observation, None
    queue = deque([(state, [])])
    seen = {state}
    while solved is None:  # breadth-first over gymnasium's own table of transitions
        state, path = queue.popleft()
        for action, name in enumerate(("South", "North", "East", "West", "Pickup", "Dropoff")):
            ((_, following, reward, done),) = world._env.unwrapped.P[state][action]
            if done and reward == 20:
                solved = [*path, name]
                break
            if following not in seen:
                seen.add(following)
                queue.append((following, [*path, name]))
    total = 0.0
    for name in solved:
        # ((row * 5 + column) * 5 + passenger) * 4 + destination, says gymnasium's documentation
        rest, destination = divmod(world._observation, 4)
        rest, passenger = divmod(rest, 5)
        row, column = divmod(rest, 5)
        where = ["R", "G", "Y", "B", "in the taxi"][passenger]
        first, *grid = world.render().splitlines()
        assert first == f"Taxi: ({row}, {column}). Passenger: {where}. Destination: {'RGYB'[destination]}."
        assert len(grid) == 7
        assert grid[1 + row][1 + 2 * column] == "x"
        assert sum(line.count("x") for line in grid) == 1
        total += world.step(world.parse_action(name)).reward
    assert total == 20.0 - (len(solved) - 1)
    assert world.success


def test_the_lake_shows_the_player_and_nothing_of_the_terminal():
    world = GYMNASIUM.world(task="FrozenLake-v1")
    assert world.render() == "xFFF\nFHFH\nFFFH\nHFFG"
    for _ in range(30):
        world.step(world.parse_action("Right"))
        assert "\x1b" not in world.render()
        assert "(" not in world.render()
        assert world.render().count("x") == 1
        if world.done:
            break
    assert world.done
    assert not world.success or "G" not in world.render()


def test_a_hole_is_no_success():
    ends = set()
    for seed in range(60):
        world = GYMNASIUM.world(task="FrozenLake-v1", episode_seed=seed)
        for name in ("Down", "Down", "Right", "Right", "Down", "Right") * 10:
            if world.done:
                break
            result = world.step(world.parse_action(name))
        ends.add((result.reward, world.render().endswith("x"), world.success))
    assert ends == {(1.0, True, True), (0.0, False, False)}


def test_randomness_depends_on_the_episode_seed_and_the_deal_does_not():
    def play(seed: int) -> list[str]:
        world = GYMNASIUM.world(task="Blackjack-v1", index=11, episode_seed=seed)
        states = [world.render()]
        while not world.done:
            world.step(world.parse_action("hit"))
            states.append(world.render())
        return states

    assert play(0) == play(0)
    stories = [play(seed) for seed in range(12)]
    assert len({story[0] for story in stories}) == 1
    assert len({tuple(story) for story in stories}) > 3


@pytest.mark.parametrize(
    ("hand", "text"),
    [
        ((20, 1, 0), "Your sum: 20, no ace counts 11. The dealer shows 1."),
        ((13, 10, 1), "Your sum: 13, an ace counts 11. The dealer shows 10."),
    ],
)
def test_blackjack_is_told_in_words(hand, text):
    world = GYMNASIUM.world(task="Blackjack-v1")
    world._observation = hand
    assert world.render() == text
    assert [world.parse_action(name) for name in ("Stick", "HIT", "Stand")] == [0, 1, None]


def test_blackjack_is_won_by_the_last_reward_only():
    rewards = {}
    for index in range(60):
        world = GYMNASIUM.world(task="Blackjack-v1", index=index)
        result = world.step(world.parse_action("Stick"))
        rewards[result.reward] = result.success
    assert rewards == {1.0: True, 0.0: False, -1.0: False}


class Corridor(gymnasium.Env):
    """Nothing is known of it but its numbered actions and its drawing."""

    metadata = {"render_modes": ["ansi"]}
    action_space = gymnasium.spaces.Discrete(3)
    observation_space = gymnasium.spaces.Discrete(2)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}

    def step(self, action):
        return 1, float(action), action > 0, action == 0, {}

    def render(self):
        return "a\x1b[41mb\x1b[0mc\n"


def test_an_unknown_environment_is_played_by_numbers():
    gymnasium.register("actfocus-test/Corridor-v0", entry_point=Corridor)
    try:
        for name, reward, success in [("2", 2.0, True), ("1", 1.0, True), ("0", 0.0, False)]:
            world = GYMNASIUM.world(task="actfocus-test/Corridor-v0")
            assert world.render() == "axc"
            assert "Actions: 0, 1, 2." in world.system_prompt()
            assert [world.parse_action(text) for text in ("3", "-1", "1.0")] == [None] * 3
            result = world.step(world.parse_action(name))
            assert (result.reward, result.done, result.success) == (reward, True, success)
    finally:
        del gymnasium.registry["actfocus-test/Corridor-v0"]


@pytest.mark.filterwarnings("ignore:.*render_mode")
def test_an_environment_without_a_text_is_refused():
    with pytest.raises(ConfigurationError, match="no text rendering"):
        GYMNASIUM.world(task="CartPole-v1")
