"""What an agent learns from a reward."""
