"""Games of several turns, played inside the compiled program; see `docs/turns.md`."""
