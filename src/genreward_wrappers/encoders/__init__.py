"""Encoders: frames in, latents out; no environment and no goal.

`base` has the interface and the clip grammar, `stream` the streaming fold, `pixels` the
control that every learned encoder has to beat, and `video_vae` the causal video VAEs;
`registry` turns a string into an encoder. Importing this package imports none of them.
"""
