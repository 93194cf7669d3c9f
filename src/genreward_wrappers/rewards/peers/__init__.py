"""The methods that GenReward is compared with."""
