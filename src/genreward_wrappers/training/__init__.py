"""What is trained here: forward-backward nets, priors, video generators."""
