"""An agent that decides for all symbols of an account; oracle: the days on which a symbol has a bar."""

import numpy as np
from builders import segment_of, walking_market

from market_regimes.config import PortfolioConfig, TradingCosts
from market_regimes.evaluate.portfolio import Bench, play_account, play_to_last_close
from market_regimes.run.agent import account_agent

COSTS = TradingCosts(fee_bp=0.0)
ACCOUNT = PortfolioConfig(cash="shared", training="account")
BEFORE_GAP = np.arange(0, 60)
AFTER_GAP = np.arange(65, 110)
FIRST_CLOSE = 20  # day of the first decision


class Wishing:
    """Wants 0.4 of every symbol, and keeps what it observed."""

    def __init__(self):
        self.observed = []

    def get_vec_normalize_env(self):
        return None

    def predict(self, observations, states, starts, deterministic):
        assert deterministic
        self.observed.append((observations, starts))
        return np.full((len(observations), 1), 0.4), states


def bench_of(*days):
    markets = [walking_market(name, seed, kept=kept) for seed, (name, kept) in enumerate(zip("AB", days, strict=True))]
    return Bench.of([segment_of(market) for market in markets], COSTS)


def test_no_order_is_given_for_a_symbol_without_a_bar_at_the_close():
    gap = np.concatenate([BEFORE_GAP, AFTER_GAP])
    bench = bench_of(None, gap)
    model = Wishing()

    played = play_account(bench, account_agent(model, COSTS).on(bench), ACCOUNT)

    closes = FIRST_CLOSE + np.arange(89)
    has_bar = np.isin(closes, gap)
    targets = played.targets.to_numpy()
    assert (targets[:, 0] == 0.4).all()
    np.testing.assert_array_equal(np.isnan(targets[:, 1]), ~has_bar)
    masks = [observations[1, -1] for observations, _ in model.observed]
    np.testing.assert_array_equal(masks, has_bar)


def test_states_begin_anew_with_the_account_and_only_then():
    bench = bench_of(None, None)
    model = Wishing()

    play_account(bench, account_agent(model, COSTS).on(bench), ACCOUNT)

    starts = np.array([of_row for _, of_row in model.observed])
    assert starts[0].all()
    assert not starts[1:].any()


def test_at_the_last_close_a_symbol_that_ended_gets_no_order():
    bench = bench_of(None, BEFORE_GAP)
    agent = account_agent(Wishing(), COSTS)

    played, state, targets = play_to_last_close(bench, agent.on(bench), ACCOUNT)

    assert state.row == len(played.account) == 89
    np.testing.assert_array_equal(targets, [0.4, np.nan])
