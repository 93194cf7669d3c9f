"""What a reward is worth on recorded episodes."""
