"""The herd: what comes back to your servers when a push has gone out, how much of it they can take, and what to do.

    scenario   what is stated: audience, push, opens, requests, capacity (a TOML file or options)
    curves     pure numpy: from push to opens to requests, as exact integrals over the steps of a time axis
    opens      open times of past launches from CSV or Parquet
    fit        a log-normal curve fitted to them
    storm      what an overloaded service and its impatient clients do to each other
    forecast   the curves of one scenario
    advice     a slower push, a share to shield and the way back, a drain period
    shapes     the curve as a Locust load shape and as a k6 scenario
    report     the forecast as JSON, as a picture and as text

Empty, so that a command loads only what it uses.
"""
