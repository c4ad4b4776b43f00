"""Sans-IO HTTP/2 for volleys: batches of requests that differ only in stream id, token and a few fields.

The problem: one HTTP/2 request per device, millions of them within seconds. The obvious answer, an HTTP/2
library with an object per request, costs microseconds (C) to hundreds of them (Python) each. The requests of one
launch are nearly the same, so a batch of them is an array that one compiled kernel writes and another reads:

    template.py    a request's constant bytes and its holes, laid out for the kernel
    kernels.py     `volley` writes requests, `scan` reads replies, `silent` finds streams nobody answered
    frames.py      the few frames written one at a time, and the protocol's numbers
    connection.py  one connection: settings, flow control, priming, replies that are not a plain success, endings

Left out on purpose: server push (disabled in SETTINGS), priorities (APNs ignores them), trailers' contents.
"""
