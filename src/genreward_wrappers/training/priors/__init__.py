"""Small models of videos that rewards are made of: a VQ codec and priors over codes."""
