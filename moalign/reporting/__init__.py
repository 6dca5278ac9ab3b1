"""What a person sees of a finished study: tables, plots, and the statistics behind them."""
