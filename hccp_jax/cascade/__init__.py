"""The simulated world: users, items, a funnel, logs and the truth behind them."""
