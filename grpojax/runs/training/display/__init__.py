"""What a person sees of a run while it trains, and its curve afterwards."""
