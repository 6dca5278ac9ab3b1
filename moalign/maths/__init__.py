"""Maths that the host and its plugins share: pure functions of small tensors, no logging.

The modules use tensor methods only, so a plugin may import them at its top: none imports torch.
"""
