"""Trading rules over a period of the markets, and what they earned: figures, tables, pictures."""
