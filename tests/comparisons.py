"""Made-up tables of comparisons, and plain loops over them."""

import numpy as np
import pandas as pd

from market_regimes.compare.catalogue import compared_figures
from market_regimes.compare.cell import Cell
from market_regimes.compare.comparison import cells_of
from market_regimes.compare.folds import folds_of
from market_regimes.compare.html_report import MAIN
from market_regimes.compare.tables import Tables
from market_regimes.config import CompareConfig, MarketConfig, RunConfig
from market_regimes.market.regimes import DEFAULT_REGIMES

VARIANTS = ("baseline", "batch", "control", "tier1", "recommended")
KEYS = ("market", "fold", "variant", "seed")
NO_DAYS = pd.DataFrame(columns=["date"])

# Of the report's tables
BASELINE = "control"
REPORTED = ("batch", BASELINE, "a long name of a variant", "dsac_t")
METRICS = {name: (f"{name.replace('_', ' ')}, in words", i % 2 == 1) for i, name in enumerate([*MAIN, "another"])}
MARKETS = ("sp500", "nasdaq")
FOLDS = ("early", "late")
SEEDS = (5, 3, 4)
SHARPES = ("sharpe_seeds_together", "hold", "fitted", "informed", "lead_over_hold", "lead_low", "lead_high")
SHARPES += ("attained_seeds_together", "difference", "low", "high", "deflated")
GROWTHS = ("growth_seeds_together", "hold_growth", "attained_growth_seeds_together")


def cell_of_sp500():
    """A cell that takes seconds: 4,096 steps before 2011, four years of test."""
    market = MarketConfig(data="sp500", train=("1999-01-04", "2010-12-01"), test=("2011-01-01", "2014-12-31"))
    algorithm = dict(
        policy="MlpPolicy",
        seed=0,
        device="cpu",
        n_steps=128,
        batch_size=256,
        n_epochs=2,
        gamma=0.95,
        normalize_returns=True,
        use_variance_gradient_scaling=True,
        policy_kwargs=dict(optimizer_kwargs=dict(eps=1e-5)),  # as the market configs have it
    )
    return Cell("sp500", "fold", "batch", 0, RunConfig(total_timesteps=4096), market, algorithm)


def configured_cells(variants, seeds="0-1", **compare):
    config = CompareConfig(seeds=seeds, first_test="2011-01-01", test_years=8, baseline=next(iter(variants)), **compare)
    return cells_of(
        config, RunConfig(), {name: {"vf_coef": 2.0} for name in variants}, variants, folds_of(config, MarketConfig())
    )


def cell_table(variants=VARIANTS, markets=("one", "two"), folds=("early", "late"), seeds=5, metrics=None):
    """Cells in random order, of random values: each metric, variant, market, fold and seed has a shift of its own."""
    metrics = list(compared_figures()) if metrics is None else metrics
    rng = np.random.default_rng(0)
    keys = [(m, f, v, s) for m in markets for f in folds for v in variants for s in range(seeds)]
    cells = pd.DataFrame(keys, columns=list(KEYS)).assign(status="ok", error=None, bars_per_year=252.0)
    parts = {name: dict(zip(cells[name].unique(), rng.normal(0, 0.3, len(cells)), strict=False)) for name in KEYS}
    for metric in metrics:
        shifts = sum(cells[name].map(parts[name]) for name in KEYS)
        better = cells["variant"].map({v: rng.normal(0, 0.5) for v in variants})
        cells[metric] = 2 + shifts + better + rng.normal(0, 0.2, len(cells))
    return cells.iloc[rng.permutation(len(cells))].reset_index(drop=True)


def spoiled_cell_table(**keys):
    """Cells that failed, undefined figures, and a seed that one variant alone has."""
    cells = cell_table(**keys)
    cells.loc[[3, 14], "status"] = ["failed", "missing"]
    cells.loc[5, cells.columns.intersection(list(compared_figures()))] = np.nan
    one_more = cells[cells["variant"] == "batch"].iloc[:1].assign(seed=17)
    return pd.concat([cells, one_more], ignore_index=True)


def values_by_cell(cells, metric, market):
    return {
        tuple(row[name] for name in KEYS): row[metric]
        for row in cells.to_dict("records")
        if row["status"] == "ok" and market in ("all", row["market"]) and np.isfinite(row[metric])
    }


def paired_values(cells, metric, market, variant, baseline):
    """Values of the variant and of the baseline in the cells of the same market, fold and seed."""
    values = values_by_cell(cells, metric, market)
    keys = [(m, f, s) for m, f, v, s in values if v == variant and (m, f, baseline, s) in values]
    return np.array([[values[m, f, v, s] for m, f, s in keys] for v in (variant, baseline)])


def seed_grids(cells, metric, market, variant, baseline):
    """The same with a row per seed and a column per market and fold."""
    values = values_by_cell(cells, metric, market)
    seeds, places = (sorted({at(key) for key in values}) for at in (lambda k: k[3], lambda k: k[:2]))
    return [
        np.array([[values.get((*place, v, seed), np.nan) for place in places] for seed in seeds])
        for v in (variant, baseline)
    ]


def shuffled(rng, frame):
    return frame.iloc[rng.permutation(len(frame))].reset_index(drop=True)


def make_cells(rng, variants):
    keys = [(m, f, v, s) for s in SEEDS for m in MARKETS for f in FOLDS for v in variants]
    cells = pd.DataFrame(keys, columns=["market", "fold", "variant", "seed"]).assign(status="ok", error=None)
    for name in [
        f"{prefix}_{regime}"
        for prefix in ("test_value_error", "test_sharpe", "hold_sharpe")
        for regime in DEFAULT_REGIMES.names
    ]:
        cells[name] = rng.normal(0, 1, len(cells)) + cells["variant"].map({v: i for i, v in enumerate(variants)})
    cells.loc[cells["variant"] == "dsac_t", "test_sharpe_crash"] = np.nan
    cells.loc[[0, 7, 9], ["status", "error"]] = [
        ["failed", "ValueError: one"],
        ["missing", None],
        ["failed", "ValueError: two"],
    ]
    cells.loc[[0, 7, 9], "test_sharpe_calm"] = 1e3
    return cells


def make_curves(rng, cells, rollouts):
    curves = cells[["market", "fold", "variant", "seed"]].merge(
        pd.DataFrame({"step": 2048.0 * np.arange(1, rollouts + 1)}), how="cross"
    )
    for i, name in enumerate(
        ("value_loss", "explained_variance", "reward", "weight", "quantile_variance", "volatility_index")
    ):
        shift = curves["variant"].map({v: 3 * j for j, v in enumerate(REPORTED)}).fillna(0)
        curves[name] = i + (shift if i != 1 else 0) + rng.uniform(0, 0.5, len(curves))
    curves.loc[curves["variant"] == BASELINE, "weight"] = np.nan
    curves.loc[(curves["variant"] == "batch") & (curves["seed"] == 5), "reward"] = np.nan
    return shuffled(rng, curves)


def make_daily(rng, cells, days):
    rows = []
    for cell in cells.to_dict("records"):
        first = "2005-01-03" if cell["fold"] == "early" else "2006-01-02"
        keys = {name: cell[name] for name in ("market", "fold", "variant", "seed")}
        rows.append(pd.DataFrame({"date": pd.date_range(first, periods=days), **keys}))
    daily = pd.concat(rows, ignore_index=True)
    daily["return"] = rng.normal(0.001, 0.02, len(daily)) + daily["variant"].map(
        {v: 0.003 * i for i, v in enumerate(REPORTED)}
    )
    places = daily["market"] + daily["date"].astype(str)
    for rule in ("hold", "fitted", "informed"):
        daily[rule] = places.map({place: rng.normal(0.001, 0.02) for place in sorted(places.unique())})
    daily.loc[daily["market"] == "nasdaq", "informed"] = np.nan  # nobody knows its law
    daily["index"] = places.map({place: rng.uniform(10, 40) for place in sorted(places.unique())})
    return shuffled(rng, daily[~((daily["variant"] == "dsac_t") & (daily["fold"] == "late"))])


def make_effects(rng, variants):
    rows = []
    for market in ("all", *MARKETS):
        for metric, (label, higher) in METRICS.items():
            for variant in reversed(variants):
                if variant == BASELINE or (variant, metric) == ("batch", "another"):
                    continue
                if (market, variant, metric) == ("nasdaq", "dsac_t", "another"):
                    continue
                middle, width = rng.normal(0, 1), rng.uniform(0.05, 0.8)
                scale = {"test_mean_reward": 1e4, "explained_variance": 30.0, "another": 300.0}.get(metric, 1.0)
                middle, width = scale * middle, scale * width
                low, high = middle - width, middle + 2 * width
                verdict = "no difference shown" if low <= 0 <= high else "better" if (low > 0) == higher else "worse"
                if (variant, metric) == ("dsac_t", "explained_variance"):
                    middle, low, high, verdict = np.nan, np.nan, np.nan, "n/a"
                if (variant, metric) == ("batch", "test_sharpe"):
                    low, high, verdict = np.nan, np.nan, "n/a"
                row = dict(market=market, variant=variant, metric=metric, label=label, higher_is_better=higher, pairs=6)
                rows.append(row | dict(difference=middle, low=low, high=high, verdict=verdict))
    return pd.DataFrame(rows)


def report_tables():
    rng = np.random.default_rng(0)
    cells = make_cells(rng, REPORTED)
    verdicts = ["better", "worse", "no difference shown", "n/a"]
    hopes = [
        dict(hope=f"Hope {i}", variant=f"variant {i}", against=f"against {i}", metric=f"metric {i}", hoped=f"hoped {i}")
        | dict(measured=f"measured {i}", verdict=verdicts[i], reached=reached, seeds_needed=needed)
        for i, (reached, needed) in enumerate(
            [("not reached", 7.0), ("reached", 12345.0), ("n/a", np.nan), ("cannot tell", np.nan)]
        )
    ]
    sharpe = [
        dict(market=market, variant=variant) | {name: rng.normal() for name in SHARPES}
        for market in MARKETS
        for variant in REPORTED
    ]
    of_growth = np.random.default_rng(1)
    for row in sharpe:
        row |= {name: of_growth.normal() for name in GROWTHS}
    sharpe[2] |= dict(low=np.nan, high=np.nan)
    sharpe[4] |= dict(sharpe_seeds_together=np.nan, difference=np.nan, low=np.nan, high=np.nan, deflated=None)
    return Tables(
        cells,
        make_curves(rng, cells, 5),
        make_daily(rng, cells, 20),
        make_effects(rng, REPORTED),
        pd.DataFrame(hopes),
        pd.DataFrame(sharpe),
    )
