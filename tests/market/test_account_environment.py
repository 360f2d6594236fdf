"""One account as several agents; oracles: today's core, plain loops over symbols, the account's growth."""

from dataclasses import replace

import numpy as np
import pytest
from builders import segment_of, walking_market

from market_regimes.config import PortfolioConfig, TradingCosts
from market_regimes.market.account_environment import AccountRows
from market_regimes.market.environment import MarketCore, MarketVecEnv
from market_regimes.market.observations import Observations, rows_of_account

SHARED = PortfolioConfig(cash="shared", training="account")
COSTS = TradingCosts(-1.0, 1.5, fee_bp=10.0, slippage_bp=4.0, financing_rate=0.3)
LATE = np.arange(40, 110)  # days of a symbol that is listed later
EARLY = np.arange(0, 80)  # days of a symbol that leaves


def three_segments():
    """One symbol of all days, one that is listed later, one that leaves."""
    markets = [walking_market("A", 0), walking_market("B", 1, kept=LATE), walking_market("C", 2, kept=EARLY)]
    return [segment_of(market) for market in markets]


def rows_of(segments, n_accounts=1, portfolio=SHARED, costs=COSTS, episode_rows=None):
    return AccountRows(segments, n_accounts, costs, portfolio, episode_rows)


def plain_observations(segments, account):
    """What the rows of one account observe, symbol by symbol."""
    core = account.agents
    row = int(core.row[0])
    single = []
    can_be_traded = []
    for k, segment in enumerate(segments):
        # The last bar up to the close before the row.
        closes = np.flatnonzero(segment.market.dates <= core.quotes.stamps[row] - np.timedelta64(1, "D"))
        bar = int(closes[-1]) if len(closes) else -1
        begun = bar >= segment.first
        has_bar = core.quotes.stamps[row] - np.timedelta64(1, "D") in segment.market.dates
        can_be_traded.append(begun and has_bar)

        observations = Observations([segment.market], [segment.scaling])
        seen = observations.at(np.array([max(bar, 0)]), core.weights[:, k])[0]
        single.append(seen if begun else np.zeros_like(seen))

    mean = np.mean([seen for seen, can in zip(single, can_be_traded, strict=True) if can], axis=0)
    return [np.concatenate([seen, mean, [can]]) for seen, can in zip(single, can_be_traded, strict=True)]


def test_a_row_has_its_numbers_the_mean_of_those_that_can_be_traded_and_its_mask():
    """Of 1, 5 and 3, of which the second cannot be traded, the mean is 2; each keeps its number."""
    observations = np.array([[[1.0], [5.0], [3.0]]])

    rows = rows_of_account(observations, np.array([[True, False, True]]))

    assert rows.dtype == np.float32
    assert rows.tolist() == [[[1.0, 2.0, 1.0], [5.0, 2.0, 0.0], [3.0, 2.0, 1.0]]]


def test_where_nothing_can_be_traded_mean_and_mask_are_zero():
    rows = rows_of_account(np.ones((2, 3, 4)), np.zeros((2, 3), dtype=bool))

    assert (rows[..., :4] == 1).all()
    assert not rows[..., 4:].any()


@pytest.mark.parametrize("seed", range(3))
def test_one_symbol_earns_and_sees_what_an_agent_of_the_core_does(seed):
    segment = segment_of(walking_market("A", seed))
    core = MarketCore([segment], 4, COSTS, episode_bars=None)
    account = rows_of([segment], n_accounts=4)
    rng = np.random.default_rng(seed)

    for _ in range(89):
        expected_seen = core.observations()
        seen = account.observations()
        np.testing.assert_array_equal(seen[:, : expected_seen.shape[1]], expected_seen)
        np.testing.assert_array_equal(seen[:, expected_seen.shape[1] : -1], expected_seen)
        assert (seen[:, -1] == 1).all()

        targets = rng.uniform(-2, 2, 4)
        expected = core.step(targets)
        step = account.step(targets)
        np.testing.assert_allclose(step.reward, expected.reward, rtol=1e-11)
        np.testing.assert_array_equal(step.terminated, expected.terminated)
        np.testing.assert_array_equal(step.truncated, expected.truncated)
        np.testing.assert_array_equal(account.agents.equity, core.equity)


def test_every_row_observes_what_a_loop_over_the_symbols_gives():
    segments = three_segments()
    account = rows_of(segments)
    rng = np.random.default_rng(0)

    masks = []
    for _ in range(88):
        expected = plain_observations(segments, account)
        np.testing.assert_allclose(account.observations(), expected, rtol=1e-5, atol=1e-6)
        masks.append(account.available.copy())
        account.step(rng.uniform(-0.5, 0.8, 3))

    # A alone, A and B after B's listing, without C after C has left.
    assert np.unique(masks, axis=0).tolist() == [[True, False, True], [True, True, False], [True, True, True]]


def test_a_symbol_without_a_bar_shows_its_weight_takes_no_order_and_earns_nothing():
    """Bars of days 60 to 64 are missing; the order that the close of day 64 gives would be filled on day 65."""
    gap = np.delete(np.arange(110), np.arange(60, 65))
    segments = [segment_of(walking_market("A", 0)), segment_of(walking_market("B", 1, kept=gap))]
    free = TradingCosts(fee_bp=0.0)
    account = rows_of(segments, costs=free)
    position = (account.observations().shape[1] - 1) // 2 - 1

    # Row r is decided at the close of day 20 + r.
    held = None
    for row in range(50):
        seen = account.observations()
        closes_on = 20 + row
        assert seen[1, -1] == (closes_on in gap)
        if closes_on in gap:
            account.step(np.array([0.2, 0.3]))
            held = account.agents.weights[0, 1]
            continue

        # It is observed with the weight that it has by now, and a wish for more is none.
        assert seen[1, position] == pytest.approx(account.agents.weights[0, 1], rel=1e-6)
        assert seen[1, position] == pytest.approx(held, rel=0.2)
        np.testing.assert_array_equal(seen[:, position + 1 : -1], np.tile(seen[0, : position + 1], (2, 1)))
        step = account.step(np.array([0.2, 0.9]))
        assert account.agents.since_trade[0, 1] > 1
        if closes_on < 64:
            assert step.reward[1] == 0


def test_rewards_of_the_rows_add_up_to_the_growth_of_the_account():
    account = rows_of(three_segments(), n_accounts=2)
    rng = np.random.default_rng(1)

    for _ in range(80):
        before = account.agents.equity.copy()
        step = account.step(rng.uniform(-0.5, 0.9, 6))

        # No interest is earned, so that the cash contributes nothing.
        growth = 100 * np.log(account.agents.equity / before)
        np.testing.assert_allclose(step.reward.reshape(2, 3).sum(axis=1), growth, rtol=1e-9, atol=1e-12)


def test_interest_on_cash_is_the_reward_of_no_row():
    account = rows_of(three_segments(), costs=replace(COSTS, cash_rate=0.2))

    step = account.step(np.zeros(3))

    assert (step.reward == 0).all()
    assert account.agents.equity[0] == pytest.approx(1 + 0.2 / account.rows_per_year)


def test_a_symbol_that_is_not_listed_earns_nothing_whatever_its_target():
    ones = rows_of(three_segments())
    others = rows_of(three_segments())

    for _ in range(15):
        step = ones.step(np.array([0.3, 0.9, 0.1]))
        expected = others.step(np.array([0.3, -0.7, 0.1]))

        assert step.reward[1] == 0
        np.testing.assert_array_equal(step.reward, expected.reward)


def test_permuted_symbols_have_permuted_rewards_and_observations():
    segments = three_segments()
    order = [2, 0, 1]
    account = rows_of(segments)
    permuted = rows_of([segments[k] for k in order])
    rng = np.random.default_rng(2)

    for _ in range(80):
        np.testing.assert_allclose(permuted.observations(), account.observations()[order], rtol=1e-5, atol=1e-6)
        targets = rng.uniform(-0.5, 0.9, 3)
        reward = account.step(targets).reward
        np.testing.assert_allclose(permuted.step(targets[order]).reward, reward[order], rtol=1e-9, atol=1e-12)


def test_rows_of_an_account_begin_and_end_together_and_other_accounts_go_on():
    account = rows_of(three_segments(), n_accounts=3, episode_rows=20)
    env = MarketVecEnv(account, seed=0)
    env.reset()
    assert env.num_envs == 9

    # The second account is five rows further.
    account.agents.end[1] -= 5
    ends = []
    for t in range(20):
        last = account.agents.equity.copy()
        observations, rewards, dones, infos = env.step(np.full((9, 1), 0.2, dtype=np.float32))
        by_account = dones.reshape(3, 3)
        assert (by_account == by_account[:, :1]).all()
        assert np.isfinite(observations).all()
        for i in np.flatnonzero(dones):
            ends.append((t, i // 3))
            assert infos[i]["TimeLimit.truncated"]
            assert infos[i]["terminal_observation"].shape == observations[i].shape
            assert account.agents.equity[i // 3] == 1.0
            assert last[i // 3] != 1.0
        assert len(rewards) == 9
    assert set(ends) == {(14, 1), (19, 0), (19, 2)}


def test_the_last_observation_of_the_data_is_that_of_the_last_close():
    segments = [segment_of(walking_market(name, seed)) for seed, name in enumerate("AB")]
    account = rows_of(segments)
    for _ in range(89):
        step = account.step(np.full(2, 0.4))

    seen = account.observations()
    assert account.bar.tolist() == [109, 110 + 109]
    assert step.truncated.all()
    assert account.available.all()
    for k, segment in enumerate(segments):
        observations = Observations([segment.market], [segment.scaling])
        expected = observations.at(np.array([109]), account.agents.weights[:, k])[0]
        np.testing.assert_array_equal(seen[k, : len(expected)], expected)


def test_ruin_of_an_account_ends_all_its_rows():
    account = rows_of(three_segments(), n_accounts=2, costs=TradingCosts(-9.0, 9.0, fee_bp=0.0))
    account.agents.equity[1] = 0.0101

    for _ in range(30):
        step = account.step(np.tile([9.0, 0.0, 0.0], 2))
        if step.terminated[3:].any():
            break

    assert step.terminated.tolist() == [False] * 3 + [True] * 3


def test_limits_bind_the_targets_of_the_rows():
    limits = replace(SHARED, weight_max=0.25)
    account = rows_of(three_segments(), portfolio=limits)

    account.step(np.full(3, 1.0))

    assert account.agents.weights.max() < 0.27  # prices move it within the row
    assert account.agents.weights.max() > 0.2
