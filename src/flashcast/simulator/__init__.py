"""APNs and FCM that speak the real protocol, count what they get, and misbehave on request.

The simulator shares the closed set of reasons with the sender, and nothing of its parser: the two must not
agree by sharing a bug. It is one process with one thread, so that on a machine of two cores the sender has
the other one.
"""
