"""Zombie mode: apps go on working on what they have while the back end recovers, told so by one small static file.

Useful without the rest of Flashcast: nothing here imports the sender. Import the modules you need; this package is
empty so that a client loads nothing but the client.

    document, buckets, keys, envelope   what is published, who is in it, and how anybody can tell that it is genuine
    publish                             writing it where a CDN or a web server finds it
    client                              the reference client: polling, decisions, the write queue
"""
