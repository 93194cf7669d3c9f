"""Encoders: frames in, latents out; no environment and no goal.

`base` has the interface, the clip grammar and the streaming fold, `pixels` the control
that every learned encoder has to beat, `video_vae` the causal video VAEs, and
`registry` turns a string into an encoder. Importing this package imports none of them.
"""
