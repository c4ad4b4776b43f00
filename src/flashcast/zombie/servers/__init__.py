"""Servers that shed: requests of old apps, which know nothing of zombie mode, turned away by the same document.

    routing        which paths are which feature, and in what order they are given up; the file that all share
    table          a document and the routing, compiled into what is decided per request
    identify       whose request it is
    sources        where the document is read
    gate           following the document and judging requests
    nginx, envoy   the same routing as configuration of a proxy, from a document as it is now

The door in front of `gate` is `zombie/middleware.py`.
"""
