"""The use cases of launch control, for operators. Every door (command line, later API and console) calls these.

    campaigns.py   create, edit, seal        a campaign and who gets it
    arming.py      arm, disarm               workers take the shards
    orders.py      approve, go, abort, pause, resume
    advice.py      preflight                 go or no-go, from what the fleet tells
    status.py      status, workers, audit    what is to be seen
    reports.py     report                    what became of a launch

All are coroutines over a `Store`, that is an engine and the operator on whose behalf they act. They hold no state of
their own: any number of operators at any number of machines may call them at once.
"""
