"""The proof by experiment: one small real service, one herd, once without and once with zombie mode.

Four processes on this machine, real sockets, real time: the service (HTTP, a pool of limited capacity, SQLite), a web
server for the document that has nothing to do with it, the herd of simulated apps, and the conductor, which presses GO,
watches signals and publishes documents. Nothing is simulated but people.

    parameters   every number of it, and why
    plan         who opens when and asks for what: the same in both runs, from one seed
    wire         as much HTTP as it takes
    service      the service                        document_server   the document's web server
    app          one app, naive or with the client  herd              all of them, and their log
    pilot        the controller's decisions (pure)  conductor         one run, from start to end
    measure      what the log says                  show              as a picture, as text, as JSON
"""
